/* Output on the first serial port (16550, set up by the multiboot start or a boot loader), and the end of the
 * machine. Core may touch all ports, but the processor's permission bitmap of its task is empty until the
 * ports are mapped, which a task does with itself as source (kern/ia32/map_util-io.cpp: sigma0 can fabricate
 * them). */
#include "console.h"

#include "../kernel/kernel.h"

#define SERIAL_PORT       0x3f8
#define SERIAL_EMPTY      0x20
#define EXIT_PORT         0xf4
#define PORTS_ORDER       16
#define EXIT_WITH_SUCCESS 0 /* QEMU ends with status 1 */
#define EXIT_WITH_FAILURE 1 /* QEMU ends with status 3 */

static uint8_t port_read(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void port_write(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

int console_open(void)
{
    return kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE(FOC_FPAGE_IO, 0, PORTS_ORDER, FOC_MEMORY_RWX),
                      0, 0);
}

static void put(char c)
{
    while (!(port_read(SERIAL_PORT + 5) & SERIAL_EMPTY))
        ;
    port_write(SERIAL_PORT, (uint8_t)c);
}

void print(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    text_format_list(text, sizeof text, format, arguments);
    va_end(arguments);
    for (const char *c = text; *c; c++) {
        if (*c == '\n')
            put('\r');
        put(*c);
    }
}

void console_exit(bool is_success)
{
    port_write(EXIT_PORT, is_success ? EXIT_WITH_SUCCESS : EXIT_WITH_FAILURE);
    for (;;)
        kernel_sleep_us(1000000);
}
