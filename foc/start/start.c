/* The multiboot start: what stands between the machine's boot loader (QEMU's -kernel, GRUB) and the kernel.
 * It finds the kernel, core and the components as boot modules, loads the first two where they want to lie,
 * fills in the kernel's info page (what memory there is, and that core is to be started as sigma0) and enters
 * the kernel.
 *
 * Core takes the place of sigma0, the first task, which the kernel gives all memory and all of its initial
 * objects; there is no separate root task. Modules: first the kernel, second core, the rest is handed to core
 * by name.
 *
 * Rests on the Multiboot Specification 0.6.96 (section 3.3: what the loader says), and of the kernel on
 * kern/startup.cpp, kern/std_workload.cpp (what is started with which address), kern/kmem_alloc.cpp and
 * kern/ia32/kip_init-ia32.cpp (which memory it takes). */
#include "../abi/abi.h"
#include "../base/base.h"

#define MULTIBOOT_LOADED 0x2badb002u
#define HAS_MODULES      (1u << 3)
#define HAS_MEMORY_MAP   (1u << 6)
#define MODULES_MAX      32
#define SERIAL_PORT      0x3f8
#define EXIT_PORT        0xf4

struct multiboot {
    uint32_t flags, memory_lower, memory_upper, boot_device, command_line;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t map_bytes, map;
};
struct multiboot_module {
    uint32_t start, end, name, reserved;
};
struct multiboot_memory {
    uint32_t bytes; /* of the rest */
    uint64_t start, length;
    uint32_t type; /* 1: usable */
} __attribute__((packed));

extern uint64_t page_map[], page_gigabytes[], page_megabytes[];
extern char start_begin[], start_end[];
_Noreturn void start_enter(uint32_t entry);
_Noreturn void start_main(uint32_t magic, const struct multiboot *information);

static struct foc_modules module_list;
static struct foc_module modules[MODULES_MAX];

static void *at(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

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

/* 16550, 115200 baud, 8N1. */
static void serial_open(void)
{
    port_write(SERIAL_PORT + 3, 0x80);
    port_write(SERIAL_PORT + 0, 1);
    port_write(SERIAL_PORT + 1, 0);
    port_write(SERIAL_PORT + 3, 3);
    port_write(SERIAL_PORT + 2, 7);
}

static void print(const char *text)
{
    for (; *text; text++) {
        while (!(port_read(SERIAL_PORT + 5) & 0x20))
            ;
        port_write(SERIAL_PORT, (uint8_t)*text);
    }
}

_Noreturn static void give_up(const char *why)
{
    print("foc start: ");
    print(why);
    print("\r\n");
    port_write(EXIT_PORT, 1); /* QEMU's isa-debug-exit: ends with status 3 */
    for (;;)
        __asm__ volatile("hlt");
}

/* The kernel looks at what its boot loader says of memory, and takes what it needs from the conventional
 * parts. */
static void describe_memory(struct foc_kip *kip, uint64_t start, uint64_t end, unsigned type)
{
    struct foc_memory *memory = at((uintptr_t)kip + kip->memory_offset);
    if (start >= end)
        return;
    for (uint32_t i = 0; i < kip->memory_count; i++)
        if (FOC_MEMORY_TYPE(&memory[i]) == 0) {
            memory[i].start = (foc_word_t)((start & ~0x3ffull) | type);
            memory[i].last = (foc_word_t)(end - 1);
            return;
        }
    give_up("the kernel's info page has no room for one more piece of memory");
}

static void load(const struct multiboot_module *module, const char *what)
{
    struct elf_segment segment;
    if (!elf_is_program(at(module->start), module->end - module->start))
        give_up(what);
    for (unsigned i = 0; elf_segment(at(module->start), i, &segment); i++) {
        uint64_t end = segment.physical_address + segment.memory_bytes;
        if (end > (uintptr_t)start_begin && segment.physical_address < (uintptr_t)module->end)
            give_up("the kernel or core wants to lie where the boot loader has put modules");
        __builtin_memcpy(at(segment.physical_address), segment.data, (size_t)segment.file_bytes);
        __builtin_memset(at(segment.physical_address + segment.file_bytes), 0,
                         (size_t)(segment.memory_bytes - segment.file_bytes));
    }
}

/* The kernel's info page is found by its magic number. */
static struct foc_kip *find_info_page(const struct multiboot_module *module)
{
    struct elf_segment segment;
    for (unsigned i = 0; elf_segment(at(module->start), i, &segment); i++)
        for (uint64_t offset = 0; offset + sizeof(struct foc_kip) <= segment.file_bytes; offset += 16)
            if (*(uint32_t *)at(segment.physical_address + offset) == FOC_KIP_MAGIC)
                return at(segment.physical_address + offset);
    return NULL;
}

static void describe_segments(struct foc_kip *kip, const struct multiboot_module *module, unsigned type)
{
    struct elf_segment segment;
    for (unsigned i = 0; elf_segment(at(module->start), i, &segment); i++)
        describe_memory(kip, segment.physical_address, segment.physical_address + segment.memory_bytes, type);
}

static void describe_machine(struct foc_kip *kip, const struct multiboot *information)
{
    for (uint32_t offset = 0; offset < information->map_bytes;) {
        const struct multiboot_memory *memory = at(information->map + offset);
        if (memory->type == 1)
            describe_memory(kip, memory->start, memory->start + memory->length, FOC_MEMORY_CONVENTIONAL);
        offset += memory->bytes + 4;
    }
}

static void list_modules(struct foc_kip *kip, const struct multiboot_module *from, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        modules[i] = (struct foc_module){
            .flags = i == 0   ? 1
                     : i == 1 ? 2
                              : 0, /* kernel, sigma0, other */
            .start = from[i].start,
            .end = from[i].end,
            .name = from[i].name,
        };
        describe_memory(kip, from[i].start & ~0xfffu, (from[i].end + 0xfffull) & ~0xfffull,
                        FOC_MEMORY_BOOTLOADER);
    }
    module_list = (struct foc_modules){.modules = (uintptr_t)modules, .count = count};
    kip->user_pointer = (uintptr_t)&module_list;
    describe_memory(kip, (uintptr_t)start_begin, (uintptr_t)start_end, FOC_MEMORY_BOOTLOADER);
}

/* The first 4 GiB, one to one, in pages of 2 MiB. */
static void map_memory(void)
{
    page_map[0] = (uintptr_t)page_gigabytes | 3;
    for (unsigned i = 0; i < 4; i++)
        page_gigabytes[i] = (uintptr_t)(page_megabytes + i * 512) | 3;
    for (unsigned i = 0; i < 4 * 512; i++)
        page_megabytes[i] = (uint64_t)i << 21 | 0x83;
}

void start_main(uint32_t magic, const struct multiboot *information)
{
    serial_open();
    if (magic != MULTIBOOT_LOADED)
        give_up("not started by a multiboot loader");
    if (!(information->flags & HAS_MODULES) || information->module_count < 2)
        give_up("needs at least two modules: the kernel and core");
    if (information->module_count > MODULES_MAX)
        give_up("too many modules");
    if (!(information->flags & HAS_MEMORY_MAP))
        give_up("the boot loader gives no memory map");

    const struct multiboot_module *list = at(information->modules);
    load(&list[0], "the first module is not a kernel for x86-64 (an ELF program)");
    load(&list[1], "the second module is not core (an ELF program for x86-64)");
    struct foc_kip *kip = find_info_page(&list[0]);
    if (!kip)
        give_up("the first module has no kernel info page: is it a Fiasco.OC kernel?");
    if (kip->memory_offset == 0 || kip->memory_offset > FOC_PAGE_SIZE)
        give_up("the kernel info page has an older layout than this start knows");

    describe_machine(kip, information);
    describe_segments(kip, &list[0], FOC_MEMORY_RESERVED);
    describe_segments(kip, &list[1], FOC_MEMORY_DEDICATED);
    list_modules(kip, list, information->module_count);
    kip->sigma0_ip = elf_entry(at(list[1].start));
    kip->root_ip = 0;
    map_memory();
    start_enter((uint32_t)elf_entry(at(list[0].start)));
}
