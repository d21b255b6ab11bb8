// The emulator behind emu.h: fibers, their scheduler, and warp-wide instructions written out from the PTX ISA tables.
#include "emu.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {
namespace {
constexpr size_t STACK = 64 << 10, GUARD = 4096;
constexpr u8 POISON = 0xFF, GUARDED = 0xA5;
constexpr u32 RESIDENT = 3, LONGEST_BURST = 24;

#if defined(__x86_64__)
struct Context { void* sp; };
extern "C" void emu_switch(void** save, void* to);
asm(R"(
.text
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
void start(Context& c, u8* stack, void (*entry)()) {
  void** top = (void**)(((size_t)stack + STACK) & ~(size_t)15) - 2;
  top[0] = (void*)entry;
  top[1] = nullptr;
  for (int i = 1; i <= 6; ++i) top[-i] = nullptr;
  c.sp = top - 6;
}
void change(Context& from, Context& to) { emu_switch(&from.sp, to.sp); }
#else
struct Context { ucontext_t u; };
void start(Context& c, u8* stack, void (*entry)()) {
  getcontext(&c.u);
  c.u.uc_stack.ss_sp = stack;
  c.u.uc_stack.ss_size = STACK;
  c.u.uc_link = nullptr;
  makecontext(&c.u, entry, 0);
}
void change(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
#endif

struct Copy { void* to; const void* from; bool wanted; };
struct Warp { alignas(16) u8 in[32][64], out[32][64]; Meeting what[32]; u32 arrived = 0, generation = 0; };
struct Fiber {
  Here at;
  Context context;
  bool done = false;
  const u32* waits_for = nullptr;  // a generation, and the one in which this fiber arrived
  u32 seen = 0;
  struct Block* block = nullptr;
  u32 lane = 0;
  Warp* warp = nullptr;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};
struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<u8> memory;
  u8* shared = nullptr;
  u32 alive = 0, arrived = 0, generation = 0;
};
struct Buffer { const u8* begin; u64 bytes; bool writable; };

Context scheduler;
Fiber* current;
std::vector<Buffer> buffers;
std::vector<std::unique_ptr<u8[]>> stacks;
void (*body)(void*);
void* body_data;
char failure[256];

void pause_fiber() { change(current->context, scheduler); }
[[noreturn]] void fail(const char* why) {
  const Index b = current->at.block;
  if (!failure[0]) snprintf(failure, sizeof failure, "%s (block %u,%u,%u thread %u)", why, b.x, b.y, b.z, current->at.thread.x);
  current->done = true;
  for (;;) pause_fiber();
}
void wait_for(const u32* generation, u32 seen) {
  current->waits_for = generation;
  current->seen = seen;
  pause_fiber();
  current->waits_for = nullptr;
}
bool runnable(const Fiber& f) { return !f.done && (!f.waits_for || *f.waits_for != f.seen); }
void open_barrier(Block& b) {
  b.arrived = 0;
  ++b.generation;
}
void fiber_main() {
  body(body_data);
  Fiber& f = *current;
  bool in_flight = !f.open.empty();
  for (const auto& group : f.groups) in_flight |= !group.empty();
  if (in_flight) fail("thread ends with copies in flight");
  f.done = true;
  Block& b = *f.block;
  if (--b.alive && b.arrived == b.alive) open_barrier(b);  // threads that ended do not count
  for (;;) pause_fiber();
}
}  // namespace

Here* here;

void barrier() {
  Block& b = *current->block;
  const u32 seen = b.generation;
  if (++b.arrived == b.alive) open_barrier(b);
  else wait_for(&b.generation, seen);
}
void meet(Meeting what, const void* in, u32 in_bytes, void* out, u32 out_bytes) {
  Warp& w = *current->warp;
  const u32 lane = current->lane, seen = w.generation;
  memcpy(w.in[lane], in, in_bytes);
  w.what[lane] = what;
  if (++w.arrived == 32) {
    for (int i = 0; i < 32; ++i)
      if (w.what[i] != what) fail("lanes of a warp are at different instructions");
    what(w.in, w.out);
    w.arrived = 0;
    ++w.generation;
  } else {
    wait_for(&w.generation, seen);
  }
  memcpy(out, w.out[lane], out_bytes);
}
void check(const void* p, u64 bytes, bool write) {
  if ((size_t)p % bytes) fail("misaligned global access");
  for (Buffer& b : buffers)
    if ((const u8*)p >= b.begin && (const u8*)p + bytes <= b.begin + b.bytes) {
      if (write && !b.writable) fail("write to an input");
      return;
    }
  fail(write ? "global write out of bounds" : "global read out of bounds");
}
void copy(void* shared, const void* global, bool wanted) {
  const Block& b = *current->block;
  if ((size_t)shared & 15 || (size_t)global & 15) fail("misaligned asynchronous copy");
  if ((u8*)shared < b.shared || (u8*)shared + 16 > b.shared + (b.memory.size() - GUARD - 1024)) fail("shared memory overrun");
  if (wanted) check(global, 16, false);
  memset(shared, POISON, 16);
  current->open.push_back({shared, global, wanted});
}
void commit() {
  current->groups.push_back(std::move(current->open));
  current->open.clear();
}
void wait(u32 pending) {
  auto& groups = current->groups;
  while (groups.size() > pending) {
    for (const Copy& c : groups.front()) {
      memset(c.to, 0, 16);
      if (c.wanted) memcpy(c.to, c.from, 16);
    }
    groups.erase(groups.begin());
  }
}

float f16(u16 h) {
  _Float16 x;
  memcpy(&x, &h, 2);
  return (float)x;
}
u16 f16(double f) {
  const _Float16 x = (_Float16)f;
  u16 h;
  memcpy(&h, &x, 2);
  return h;
}
float bf16(u16 h) { return as_float((u32)h << 16); }
u16 bf16_bits(double d) {  // nearest even, from the exact value: through float with the lost bits kept sticky
  float f = (float)d;
  u32 u = as_bits(f);
  if ((u & 0x7fffffff) >= 0x7f800000) return (u16)(u >> 16 | ((u & 0xffff) ? 64 : 0));
  if ((double)f != d && !(u & 1)) u = fabs((double)f) > fabs(d) ? u - 1 : u | 1;
  return (u16)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
float exp2(float x) { return std::exp2(x); }
static float e4m3(u8 v) {
  const int e = v >> 3 & 15, m = v & 7;
  const float size = e == 15 && m == 7 ? NAN : e ? ldexpf(1 + m / 8.f, e - 7) : ldexpf(m / 8.f, -6);
  return v >> 7 ? -size : size;
}

namespace {
struct MmaIn { u32 a[4], b[2], d[4]; };
struct ShuffleIn { u32 v; int mask; };

double value(Operands type, u32 r, int e) {
  switch (type) {
    case F16: return f16((u16)(r >> 16 * e));
    case BF16_: return bf16((u16)(r >> 16 * e));
    case S8: return (i8)(r >> 8 * e);
    default: return e4m3((u8)(r >> 8 * e));
  }
}
template <Operands TYPE> void multiply(const u8 (*in)[64], u8 (*out)[64]) {
  constexpr int EACH = TYPE == F16 || TYPE == BF16_ ? 2 : 4, K = 8 * EACH;
  double a[16][K], b[8][K];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& i = *(const MmaIn*)in[lane];
    const int g = lane >> 2, t = lane & 3;
    for (int e = 0; e < EACH; ++e) {
      for (int r = 0; r < 4; ++r) a[g + (r & 1) * 8][t * EACH + e + (r >> 1) * (K / 2)] = value(TYPE, i.a[r], e);
      for (int r = 0; r < 2; ++r) b[g][t * EACH + e + r * (K / 2)] = value(TYPE, i.b[r], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const MmaIn& i = *(const MmaIn*)in[lane];
    for (int r = 0; r < 4; ++r) {
      const int row = (lane >> 2) + (r >> 1) * 8, column = (lane & 3) * 2 + (r & 1);
      double sum = TYPE == S8 ? (double)(int)i.d[r] : as_float(i.d[r]);
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[column][k];
      const u32 bits = TYPE == S8 ? (u32)(int)sum : as_bits((float)sum);
      memcpy(out[lane] + 4 * r, &bits, 4);
    }
  }
}
void exchange(const u8 (*in)[64], u8 (*out)[64]) {
  for (int lane = 0; lane < 32; ++lane) {
    const ShuffleIn& i = *(const ShuffleIn*)in[lane];
    memcpy(out[lane], in[lane ^ i.mask], 4);
  }
}
// Lane i brings row i % 8 of matrix i / 8 as memory holds it when that lane arrives: the instruction orders nothing.
void read_matrices(const u8 (*in)[64], u8 (*out)[64]) {
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < 4; ++m) memcpy(out[lane] + 4 * m, in[m * 8 + (lane >> 2)] + (lane & 3) * 4, 4);
}
void read_matrices_transposed(const u8 (*in)[64], u8 (*out)[64]) {
  for (int lane = 0; lane < 32; ++lane)
    for (int m = 0; m < 4; ++m)
      for (int e = 0; e < 2; ++e) memcpy(out[lane] + 4 * m + 2 * e, in[m * 8 + (lane & 3) * 2 + e] + (lane >> 2) * 2, 2);
}
}  // namespace

u32 shuffle(u32 v, int mask) {
  const ShuffleIn in{v, mask};
  u32 r;
  meet(exchange, &in, sizeof in, &r, 4);
  return r;
}
void matrices(u32* r, const void* s, bool transposed) {
  if ((size_t)s & 15) fail("misaligned matrix load");
  meet(transposed ? read_matrices_transposed : read_matrices, s, 16, r, 16);
}
void mma(Operands type, void* d, const u32* a, u32 b0, u32 b1) {
  MmaIn in{{a[0], a[1], a[2], a[3]}, {b0, b1}, {}};
  memcpy(in.d, d, 16);
  const Meeting what[] = {multiply<F16>, multiply<BF16_>, multiply<S8>, multiply<E4M3_>};
  meet(what[type], &in, sizeof in, d, 16);
}

namespace {
struct Launch { Index grid; u32 threads; u64 shared_bytes; };

void begin(Block& b, const Launch& l, Index at, size_t slot) {
  b.alive = l.threads;
  b.arrived = 0;
  b.warps.assign(l.threads / 32, Warp{});
  b.memory.assign(l.shared_bytes + 1024 + GUARD, POISON);
  b.shared = (u8*)(((size_t)b.memory.data() + 1023) & ~(size_t)1023);
  memset(b.shared + l.shared_bytes, GUARDED, b.memory.data() + b.memory.size() - (b.shared + l.shared_bytes));
  b.fibers.resize(l.threads);
  for (u32 i = 0; i < l.threads; ++i) {
    Fiber& f = b.fibers[i];
    f.at = {{i, 0, 0}, at, {l.threads, 1, 1}, l.grid, b.shared};
    f.done = false;
    f.waits_for = nullptr;
    f.block = &b;
    f.lane = i % 32;
    f.warp = &b.warps[i / 32];
    f.groups.clear();
    f.open.clear();
    start(f.context, stacks[slot * l.threads + i].get(), fiber_main);
  }
}
void guard(const Block& b, const Launch& l) {
  for (const u8* p = b.shared + l.shared_bytes; p < b.memory.data() + b.memory.size(); ++p)
    if (*p != GUARDED) {
      snprintf(failure, sizeof failure, "shared memory written beyond its end");
      return;
    }
}
// Resume the lanes of a warp that can run, in random order; whether any could.
bool advance(Block& b, u32 warp, std::mt19937& random) {
  const u32 first = random(), stride = random() | 1;
  bool any = false;
  for (u32 i = 0; i < 32 && !failure[0]; ++i) {
    Fiber& f = b.fibers[warp * 32 + ((first + i * stride) & 31)];
    if (!runnable(f)) continue;
    any = true;
    current = &f;
    here = &f.at;
    change(scheduler, f.context);
  }
  return any;
}
bool stuck(const std::vector<Block*>& resident) {
  for (const Block* b : resident)
    for (const Fiber& f : b->fibers)
      if (runnable(f)) return false;
  return true;
}
}  // namespace

void run(const Launch& l, u32 seed) {
  std::mt19937 random(seed);
  std::vector<Index> waiting;
  for (u32 z = 0; z < l.grid.z; ++z)
    for (u32 y = 0; y < l.grid.y; ++y)
      for (u32 x = 0; x < l.grid.x; ++x) waiting.push_back({x, y, z});
  for (size_t i = waiting.size(); i > 1; --i) std::swap(waiting[i - 1], waiting[random() % i]);
  while (stacks.size() < RESIDENT * l.threads) stacks.emplace_back(new u8[STACK]);
  static std::vector<Block> slots(RESIDENT);
  std::vector<Block*> resident;
  std::vector<Block*> idle;
  for (Block& b : slots) idle.push_back(&b);
  u32 fruitless = 0;
  while ((!resident.empty() || !waiting.empty()) && !failure[0]) {
    while (!idle.empty() && !waiting.empty()) {
      Block* b = idle.back();
      idle.pop_back();
      begin(*b, l, waiting.back(), b - slots.data());
      waiting.pop_back();
      resident.push_back(b);
    }
    const size_t which = random() % resident.size();
    Block& b = *resident[which];
    const u32 warp = random() % b.warps.size();
    bool any = false;
    for (u32 burst = 1 + random() % LONGEST_BURST; burst && advance(b, warp, random); --burst) any = true;
    fruitless = any ? 0 : fruitless + 1;
    if (fruitless > 64 && stuck(resident)) {
      snprintf(failure, sizeof failure, "no thread can go on: a barrier or warp instruction that not all reach");
      return;
    }
    if (!b.alive) {
      guard(b, l);
      resident.erase(resident.begin() + which);
      idle.push_back(&b);
    }
  }
}
}  // namespace emu

extern "C" {
void emu_buffer(const void* p, u64 bytes, int writable) { emu::buffers.push_back({(const u8*)p, bytes, writable != 0}); }
void emu_clear() { emu::buffers.clear(); }
// Null when the launch ended well, else why not. `body` calls the kernel with `data`.
const char* emu_launch(const u32* grid, u32 threads, u64 shared_bytes, u32 seed, void (*body)(void*), void* data) {
  emu::failure[0] = 0;
  emu::body = body;
  emu::body_data = data;
  emu::run({{grid[0], grid[1], grid[2]}, threads, shared_bytes}, seed);
  return emu::failure[0] ? emu::failure : nullptr;
}
}
