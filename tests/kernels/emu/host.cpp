// One kernel variant as a library: SOURCE and ENTRY name it, its macros come from the command line.
#include SOURCE

#include <utility>

extern "C" const char* emu_launch(const u32* grid, u32 threads, u64 shared_bytes, u32 seed, void (*body)(void*), void* data);

template <class... A, unsigned long... I> static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A> static void spread(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>{});
}
extern "C" const char* emu_run(const u32* grid, u32 threads, u64 shared_bytes, u32 seed, void** arguments) {
  return emu_launch(grid, threads, shared_bytes, seed, [](void* a) { spread(ENTRY, (void**)a); }, arguments);
}
