// What prim.cuh provides on a GPU, for the CPU: the bundled kernels built by g++ and run thread by thread.
//
//  * A CUDA thread is a fiber. Warps of a few resident blocks advance in a seeded random order, some far ahead of others.
//  * Barriers and warp-wide instructions are true meetings; lanes at different ones, or no progress, end the run.
//  * An asynchronous copy poisons its target when issued and writes only when waited for.
//  * Shared memory starts poisoned and has guards behind it; global accesses must lie in a registered buffer.
#pragma once
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(16) v4u { u32 x, y, z, w; };
struct alignas(8) v2u { u32 x, y; };

namespace emu {
struct Index { u32 x, y, z; };
struct Here { Index thread, block, threads, grid; u8* shared; };
extern Here* here;
typedef void (*Meeting)(const u8 (*in)[64], u8 (*out)[64]);
void barrier();
void meet(Meeting what, const void* in, u32 in_bytes, void* out, u32 out_bytes);
void check(const void* p, u64 bytes, bool write);
void copy(void* shared, const void* global, bool wanted);
void commit();
void wait(u32 pending);
u32 shuffle(u32 v, int mask);
void matrices(u32* r, const void* s, bool transposed);
enum Operands { F16, BF16_, S8, E4M3_ };
void mma(Operands type, void* d, const u32* a, u32 b0, u32 b1);
float f16(u16 h);
u16 f16(double f);
float bf16(u16 h);
u16 bf16_bits(double f);
float exp2(float x);
}  // namespace emu

#define DEVICE static inline
#define KERNEL static void
#define SHARED(name) u8* name = emu::here->shared
#define threadIdx (emu::here->thread)
#define blockIdx (emu::here->block)
#define blockDim (emu::here->threads)
#define gridDim (emu::here->grid)

template <class T> DEVICE T load(const T* p) { emu::check(p, sizeof(T), false); return *p; }
template <class T> DEVICE void store(T* p, T v) { emu::check(p, sizeof(T), true); *p = v; }
DEVICE v4u load_once(const void* p) { return load((const v4u*)p); }
DEVICE void store_once(void* p, v4u v) { store((v4u*)p, v); }
DEVICE float load_l2(const float* p) { return load(p); }
DEVICE void store_l2(float* p, float v) { store(p, v); }
DEVICE u32 count_up(u32* p, u32 last) { const u32 old = load(p); store(p, old >= last ? 0u : old + 1); return old; }
DEVICE void copy16(void* s, const void* g, bool wanted) { emu::copy(s, g, wanted); }
DEVICE u64 first_out() { return 0; }
DEVICE void copy16_once(void* s, const void* g, bool wanted, u64) { emu::copy(s, g, wanted); }
DEVICE void copies_commit() { emu::commit(); }
template <int N> DEVICE void copies_wait() { emu::wait(N); }

DEVICE float as_float(u32 v) { float f; __builtin_memcpy(&f, &v, 4); return f; }
DEVICE u32 as_bits(float f) { u32 v; __builtin_memcpy(&v, &f, 4); return v; }
DEVICE u32 shuffle_xor(u32 v, int mask) { return emu::shuffle(v, mask); }
DEVICE float shuffle_xor(float v, int mask) { return as_float(emu::shuffle(as_bits(v), mask)); }
DEVICE void sync_warp() { emu::shuffle(0, 0); }
DEVICE void sync_block() { emu::barrier(); }
DEVICE void fence() {}

template <int TABLE> DEVICE u32 lop3(u32 a, u32 b, u32 c) {
  u32 r = 0;
  for (int i = 0; i < 8; ++i)
    if (TABLE >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}
DEVICE u32 permute(u32 a, u32 b, u32 select) {
  const u64 bytes = (u64)b << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 byte = bytes >> 8 * (select >> 4 * i & 7) & 255;
    r |= (select >> 4 * i & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;  // bit 3: the sign, eight times
  }
  return r;
}
DEVICE int dot4(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += (i8)(a >> 8 * i) * (i8)(b >> 8 * i);
  return c;
}
DEVICE int dot4_unsigned(u32 a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += (int)(a >> 8 * i & 255u) * (i8)(b >> 8 * i);
  return c;
}
DEVICE float power2(float x) { return emu::exp2(x); }
DEVICE u32 fma_f16x2(u32 a, u32 b, u32 c) {
  const u32 low = emu::f16((double)emu::f16((u16)a) * emu::f16((u16)b) + emu::f16((u16)c));
  return low | (u32)emu::f16((double)emu::f16((u16)(a >> 16)) * emu::f16((u16)(b >> 16)) + emu::f16((u16)(c >> 16))) << 16;
}
DEVICE u32 sub_f16x2(u32 a, u32 b) {
  const u32 low = emu::f16((double)emu::f16((u16)a) - emu::f16((u16)b));
  return low | (u32)emu::f16((double)emu::f16((u16)(a >> 16)) - emu::f16((u16)(b >> 16))) << 16;
}
DEVICE u32 fma_bf16x2(u32 a, u32 b, u32 c) {
  const u32 low = emu::bf16_bits((double)emu::bf16((u16)a) * emu::bf16((u16)b) + emu::bf16((u16)c));
  return low | (u32)emu::bf16_bits((double)emu::bf16((u16)(a >> 16)) * emu::bf16((u16)(b >> 16)) + emu::bf16((u16)(c >> 16))) << 16;
}
DEVICE float from_f16(u16 h) { return emu::f16(h); }
DEVICE u16 to_f16(float f) { return emu::f16((double)f); }
DEVICE float from_bf16(u16 h) { return emu::bf16(h); }
DEVICE u16 to_bf16(float f) { return emu::bf16_bits(f); }
DEVICE u32 pack_bf16(float low, float high) { return emu::bf16_bits(low) | (u32)emu::bf16_bits(high) << 16; }
DEVICE u32 pack_f16(float low, float high) { return emu::f16((double)low) | (u32)emu::f16((double)high) << 16; }

DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma(emu::F16, d, a, b0, b1); }
DEVICE void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma(emu::BF16_, d, a, b0, b1); }
DEVICE void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma(emu::S8, d, a, b0, b1); }
DEVICE void mma_e4m3(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { emu::mma(emu::E4M3_, d, a, b0, b1); }
DEVICE void load_matrices(u32 (&r)[4], const void* s) { emu::matrices(r, s, false); }
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* s) { emu::matrices(r, s, true); }
