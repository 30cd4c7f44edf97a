/* Physical memory. As sigma0, core may touch all of it, one to one; what is free is what the kernel info page
 * calls conventional, less everything that it describes otherwise: the kernel and its heap, boot modules,
 * core itself. */
#include "core.h"

#define LOW_MEMORY_END 0x100000ull /* the first MiB is left to the firmware */

static struct ranges free_pages;

static void subtract(const struct foc_memory *memory)
{
    ranges_remove(&free_pages, FOC_MEMORY_START(memory) >> FOC_PAGE_SHIFT,
                  (FOC_MEMORY_LAST(memory) >> FOC_PAGE_SHIFT) + 1);
}

int pages_init(const struct foc_kip *kip)
{
    const struct foc_memory *memory = (const struct foc_memory *)((const char *)kip + kip->memory_offset);
    for (unsigned i = 0; i < kip->memory_count; i++)
        if (!FOC_MEMORY_IS_VIRTUAL(&memory[i]) && FOC_MEMORY_TYPE(&memory[i]) == FOC_MEMORY_CONVENTIONAL)
            ranges_add(&free_pages, (FOC_MEMORY_START(&memory[i]) + FOC_PAGE_SIZE - 1) >> FOC_PAGE_SHIFT,
                       (FOC_MEMORY_LAST(&memory[i]) + 1) >> FOC_PAGE_SHIFT);
    for (unsigned i = 0; i < kip->memory_count; i++)
        if (!FOC_MEMORY_IS_VIRTUAL(&memory[i]) && FOC_MEMORY_TYPE(&memory[i]) != FOC_MEMORY_CONVENTIONAL &&
            FOC_MEMORY_TYPE(&memory[i]) != 0)
            subtract(&memory[i]);
    ranges_remove(&free_pages, 0, LOW_MEMORY_END >> FOC_PAGE_SHIFT);
    return ranges_total(&free_pages) > 0 ? 0 : -E_NOMEM;
}

void *pages_take(size_t count)
{
    uint64_t page;
    if (!ranges_take(&free_pages, count, 1, &page))
        return NULL;
    void *memory = (void *)(page << FOC_PAGE_SHIFT);
    __builtin_memset(memory, 0, count << FOC_PAGE_SHIFT);
    return memory;
}

void pages_give(void *pages, size_t count)
{
    uint64_t first = (uint64_t)pages >> FOC_PAGE_SHIFT;
    if (pages)
        ranges_add(&free_pages, first, first + count);
}

size_t pages_free(void)
{
    return ranges_total(&free_pages);
}

const struct foc_module *module_find(const struct foc_kip *kip, const char *name)
{
    const struct foc_modules *list = (const struct foc_modules *)kip->user_pointer;
    const struct foc_module *modules = list ? (const struct foc_module *)list->modules : NULL;
    for (unsigned i = 0; modules && i < list->count; i++) {
        char found[32];
        text_base_name((const char *)modules[i].name, found, sizeof found);
        if (text_equal(found, name))
            return &modules[i];
    }
    return NULL;
}
