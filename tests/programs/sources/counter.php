<?php // A line server in PHP: "add N" is answered "sum S total T ticks K". Ticks are what select(2) times out on.
$server = stream_socket_server('tcp://127.0.0.1:0');
echo parse_url('tcp://' . stream_socket_get_name($server, false), PHP_URL_PORT), "\n";
$connections = [];
$sums = [];
$total = $ticks = 0;
$next = microtime(true);
while (true) {
    $ready = [$server, ...$connections];
    $none = null;
    if (stream_select($ready, $none, $none, 0, 10000) === false)
        exit(1);
    if (microtime(true) >= $next) {
        $ticks++;
        $next = microtime(true) + 0.01;
    }
    foreach ($ready as $stream) {
        if ($stream === $server) {
            $connections[] = stream_socket_accept($server);
        } elseif (($line = fgets($stream)) !== false) {
            $number = (int)explode(' ', $line)[1];
            $total += $number;
            $sums[(int)$stream] = ($sums[(int)$stream] ?? 0) + $number;
            fwrite($stream, "sum {$sums[(int)$stream]} total $total ticks $ticks\n");
        } else {
            unset($connections[array_search($stream, $connections, true)]);
        }
    }
}
