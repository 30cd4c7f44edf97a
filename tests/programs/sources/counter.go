// An HTTP server for the test of a Go binary: GET /add/N on a kept-alive connection is answered "sum S total T
// ticks K". A goroutine owns the total, another has a ticker, four more keep the scheduler and the garbage
// collector busy, so that signals for preemption are on their way all the time. Prints its port.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

type addition struct {
	number int64
	total  chan int64
}

type connectionKey struct{}

func churn() {
	for {
		garbage := make([][]byte, 64)
		for i := range garbage {
			garbage[i] = make([]byte, 1024)
		}
		spin := 0
		for i := 0; i < 200000; i++ {
			spin += i
		}
		time.Sleep(time.Duration(3+spin&1) * time.Millisecond)
	}
}

func main() {
	var ticks int64
	additions := make(chan addition)
	go func() {
		var total int64
		for a := range additions {
			total += a.number
			a.total <- total
		}
	}()
	go func() {
		for range time.NewTicker(10 * time.Millisecond).C {
			atomic.AddInt64(&ticks, 1)
		}
	}()
	for i := 0; i < 4; i++ {
		go churn()
	}
	http.HandleFunc("/add/", func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.ParseInt(r.URL.Path[len("/add/"):], 10, 64)
		if err != nil {
			http.Error(w, err.Error(), 400)
			return
		}
		sum := atomic.AddInt64(r.Context().Value(connectionKey{}).(*int64), number)
		a := addition{number, make(chan int64)}
		additions <- a
		fmt.Fprintf(w, "sum %d total %d ticks %d\n", sum, <-a.total, atomic.LoadInt64(&ticks))
	})
	server := http.Server{ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, new(int64))
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	panic(server.Serve(listener))
}
