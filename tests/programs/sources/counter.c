/* A line server for the tests of C binaries (static, musl, dynamic): "add N" adds to the sum of the
 * connection and to the total, and is answered "sum S total T ticks K". One thread for each connection,
 * blocked in read(2); one more that counts ticks in a condition variable's timed wait. Prints its port. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static long total, ticks;

static void *count_ticks(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 10 * 1000 * 1000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        while (pthread_cond_timedwait(&never, &lock, &until) == 0)
            continue;
        ticks++;
    }
    return NULL;
}

static __thread long sum; /* thread-local storage: the TLS base must come back */

static void *serve(void *connection)
{
    FILE *stream = fdopen((int)(long)connection, "r+");
    char line[128];
    sum = 0;
    while (fgets(line, sizeof line, stream)) {
        long number = strtol(line + 4, NULL, 10);
        sum += number;
        pthread_mutex_lock(&lock);
        total += number;
        fprintf(stream, "sum %ld total %ld ticks %ld\n", sum, total, ticks);
        pthread_mutex_unlock(&lock);
        fflush(stream);
    }
    fclose(stream);
    return NULL;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listening = socket(AF_INET, SOCK_STREAM, 0);
    if (listening < 0 || bind(listening, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listening, 16) < 0 || getsockname(listening, (struct sockaddr *)&address, &length) < 0)
        return 1;
    pthread_t thread;
    pthread_create(&thread, NULL, count_ticks, NULL);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int connection = accept(listening, NULL, NULL);
        if (connection < 0) {
            perror("accept"); /* EINTR here is one that nobody should see */
            return 1;
        }
        pthread_create(&thread, NULL, serve, (void *)(long)connection);
        pthread_detach(thread);
    }
}
