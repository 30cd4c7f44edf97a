# A line server in Ruby: "add N" is answered "sum S total T ticks K". A thread for each connection and one that
# ticks; Ruby's own timer thread and POSIX timer are the point. Prints its port.
require 'socket'
total = ticks = 0
lock = Mutex.new
Thread.new { loop { sleep 0.01; ticks += 1 } }
server = TCPServer.new('127.0.0.1', 0)
$stdout.sync = true
puts server.addr[1]
loop do
  Thread.new(server.accept) do |connection|
    sum = 0
    while (line = connection.gets)
      number = line.split[1].to_i
      sum += number
      now = lock.synchronize { total += number }
      connection.puts "sum #{sum} total #{now} ticks #{ticks}"
    end
  end
end
