# A line server in Perl: "add N" is answered "sum S total T ticks K". The ticks are a POSIX interval timer's signals,
# so every call here is one that a signal interrupts. Prints its port.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(setitimer ITIMER_REAL);

my ($total, $ticks, %sum) = (0, 0);
$SIG{ALRM} = sub { $ticks++ };
setitimer(ITIMER_REAL, 0.01, 0.01);
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 16) or die $!;
$| = 1;
print $server->sockport, "\n";
my $select = IO::Select->new($server);
while (1) {
    for my $ready ($select->can_read) {
        if ($ready == $server) {
            $select->add($server->accept);
        } elsif (sysread $ready, my $line, 128) {
            my ($number) = $line =~ /add (-?\d+)/;
            $total += $number;
            $sum{$ready} += $number;
            syswrite $ready, "sum $sum{$ready} total $total ticks $ticks\n";
        } else {
            $select->remove($ready);
            close $ready;
        }
    }
}
