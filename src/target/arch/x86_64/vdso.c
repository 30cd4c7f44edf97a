/* Code that takes the place of functions of the vDSO: a jump to a function elsewhere, or the system call that
 * the function would have spared the program (vdso(7)). Both leave all registers alone that the ABI of
 * functions does not give away: system calls change rax, rcx and r11. */
#include "target/arch/arch.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#define VDSO_PREFIX "__vdso_"

static size_t add_bytes(uint8_t *code, size_t length, const void *bytes, size_t count)
{
    memcpy(code + length, bytes, count);
    return length + count;
}

static size_t add_return(uint8_t *code, size_t length, int64_t value)
{
    int32_t low = (int32_t)value;
    length = add_bytes(code, length, "\x48\xc7\xc0", 3); /* mov $value, %rax */
    length = add_bytes(code, length, &low, sizeof low);
    return add_bytes(code, length, "\xc3", 1); /* ret */
}

static size_t add_system_call(uint8_t *code, size_t length, long number)
{
    uint32_t low = (uint32_t)number;
    length = add_bytes(code, length, "\xb8", 1); /* mov $number, %eax */
    length = add_bytes(code, length, &low, sizeof low);
    return add_bytes(code, length, "\x0f\x05\xc3", 3); /* syscall; ret */
}

size_t arch_jump_build(uint8_t *code, uint64_t to)
{
    size_t length = add_bytes(code, 0, "\xff\x25\0\0\0\0", 6); /* jmp *0(%rip) */
    return add_bytes(code, length, &to, sizeof to);
}

size_t arch_substitute_build(uint8_t *code, const char *function)
{
    static const struct {
        const char *name;
        long number;
    } known[] = {
        {"clock_gettime", SYS_clock_gettime},
        {"clock_getres", SYS_clock_getres},
        {"gettimeofday", SYS_gettimeofday},
        {"time", SYS_time},
        {"getcpu", SYS_getcpu},
    };
    if (strncmp(function, VDSO_PREFIX, strlen(VDSO_PREFIX)) == 0)
        function += strlen(VDSO_PREFIX);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(function, known[i].name) == 0)
            return add_system_call(code, 0, known[i].number);
    size_t length = 0;
    if (strcmp(function, "getrandom") == 0) {
        /* Its fifth argument, -1, asks how states for it are made: there are none. Else it is getrandom(2).
         */
        length = add_bytes(code, 0, "\x49\x83\xf8\xff\x74\x08", 6); /* cmp $-1, %r8; je past the next 8 */
        length = add_system_call(code, length, SYS_getrandom);
    }
    return add_return(code, length, -ENOSYS);
}
