// Every PTX instruction that the bundled kernels use, in one place, and nothing from CUDA's headers: any NVRTC
// compiles this with an empty include path. Under EMULATED the same names come from the CPU emulator of the tests.
#pragma once
#if defined(EMULATED)
#include "emu.h"
#else
typedef signed char i8;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
struct alignas(16) v4u { u32 x, y, z, w; };
struct alignas(8) v2u { u32 x, y; };

#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
#define SHARED(name) extern __shared__ __align__(1024) u8 name[]

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// ---- global memory: the emulator checks every address that passes here ----
template <class T> DEVICE T load(const T* p) { return *p; }
template <class T> DEVICE void store(T* p, T v) { *p = v; }
DEVICE v4u load_once(const void* p) {  // 16 bytes that nobody reads again: not kept in L1
  v4u r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}
DEVICE void store_once(void* p, v4u v) {
  asm volatile("st.global.cs.v4.u32 [%0],{%1,%2,%3,%4};" :: "l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEVICE float load_l2(const float* p) {  // written by another block of this launch
  float r;
  asm volatile("ld.global.cg.f32 %0,[%1];" : "=f"(r) : "l"(p) : "memory");
  return r;
}
DEVICE void store_l2(float* p, float v) { asm volatile("st.global.cg.f32 [%0],%1;" :: "l"(p), "f"(v) : "memory"); }
DEVICE u32 count_up(u32* p, u32 last) {  // the old count; `last` wraps to 0, so a semaphore resets itself
  u32 r;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0,[%1],%2;" : "=r"(r) : "l"(p), "r"(last) : "memory");
  return r;
}

// ---- 16 bytes from global to shared memory, past the registers from sm_80 on; zeros where !wanted ----
#if __CUDA_ARCH__ >= 800
DEVICE void copy16(void* s, const void* g, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0],[%1],16,%2;"
               :: "r"(shared_address(s)), "l"(g), "r"(wanted ? 16 : 0) : "memory");
}
DEVICE u64 first_out() {
  u64 p;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0,1.0;" : "=l"(p));
  return p;
}
DEVICE void copy16_once(void* s, const void* g, bool wanted, u64 policy) {  // weights: the L2 may drop them first
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0],[%1],16,%2,%3;"
               :: "r"(shared_address(s)), "l"(g), "r"(wanted ? 16 : 0), "l"(policy) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory"); }
#else
DEVICE void copy16(void* s, const void* g, bool wanted) { *(v4u*)s = wanted ? load_once(g) : v4u{0, 0, 0, 0}; }
DEVICE u64 first_out() { return 0; }
DEVICE void copy16_once(void* s, const void* g, bool wanted, u64) { copy16(s, g, wanted); }
DEVICE void copies_commit() {}
template <int N> DEVICE void copies_wait() {}
#endif

// ---- warps ----
DEVICE u32 shuffle_xor(u32 v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void sync_block() { __syncthreads(); }
DEVICE void fence() { __threadfence(); }

// ---- arithmetic on registers ----
template <int TABLE> DEVICE u32 lop3(u32 a, u32 b, u32 c) {
  u32 r;
  asm("lop3.b32 %0,%1,%2,%3,%4;" : "=r"(r) : "r"(a), "r"(b), "r"(c), "n"(TABLE));
  return r;
}
DEVICE u32 permute(u32 a, u32 b, u32 select) {
  u32 r;
  asm("prmt.b32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(select));
  return r;
}
DEVICE int dot4(int a, int b, int c) {  // four signed bytes
  int r;
  asm("dp4a.s32.s32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
DEVICE int dot4_unsigned(u32 a, int b, int c) {  // unsigned bytes of a, signed ones of b
  int r;
  asm("dp4a.u32.s32 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
DEVICE float power2(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0,%1;" : "=f"(r) : "f"(x));
  return r;
}
DEVICE float as_float(u32 v) { return __uint_as_float(v); }
DEVICE u32 as_bits(float v) { return __float_as_uint(v); }
DEVICE u32 fma_f16x2(u32 a, u32 b, u32 c) {
  u32 r;
  asm("fma.rn.f16x2 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
DEVICE u32 sub_f16x2(u32 a, u32 b) {
  u32 r;
  asm("sub.f16x2 %0,%1,%2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}
DEVICE float from_f16(u16 h) {
  float f;
  asm("cvt.f32.f16 %0,%1;" : "=f"(f) : "h"(h));
  return f;
}
DEVICE u16 to_f16(float f) {
  u16 h;
  asm("cvt.rn.f16.f32 %0,%1;" : "=h"(h) : "f"(f));
  return h;
}
DEVICE float from_bf16(u16 h) { return __uint_as_float((u32)h << 16); }
#if __CUDA_ARCH__ >= 800
DEVICE u32 fma_bf16x2(u32 a, u32 b, u32 c) {
  u32 r;
  asm("fma.rn.bf16x2 %0,%1,%2,%3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
DEVICE u16 to_bf16(float f) {
  u16 h;
  asm("cvt.rn.bf16.f32 %0,%1;" : "=h"(h) : "f"(f));
  return h;
}
DEVICE u32 pack_bf16(float low, float high) {
  u32 r;
  asm("cvt.rn.bf16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
DEVICE u32 pack_f16(float low, float high) {
  u32 r;
  asm("cvt.rn.f16x2.f32 %0,%1,%2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
#else
DEVICE u16 to_bf16(float f) {
  const u32 u = __float_as_uint(f);
  return (u & 0x7fffffffu) > 0x7f800000u ? (u16)0x7fff : (u16)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
DEVICE u32 pack_bf16(float low, float high) { return to_bf16(low) | (u32)to_bf16(high) << 16; }
DEVICE u32 pack_f16(float low, float high) { return to_f16(low) | (u32)to_f16(high) << 16; }
#endif

// ---- tensor cores: D[16, 8] += A[16, 32 bytes] B[8, 32 bytes]^T ----
#define MMA(name, accumulator, constraint, instruction)                                                       \
  DEVICE void name(accumulator (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {                                  \
    asm volatile("mma.sync.aligned." instruction " {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"        \
                 : constraint(d[0]), constraint(d[1]), constraint(d[2]), constraint(d[3])                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                             \
  }
#if __CUDA_ARCH__ >= 800
MMA(mma_f16, float, "+f", "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_bf16, float, "+f", "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_s8, int, "+r", "m16n8k32.row.col.s32.s8.s8.s32")
#endif
#if __CUDA_ARCH__ < 800
DEVICE void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {  // two steps of eight inputs
#pragma unroll
  for (int half = 0; half < 2; ++half)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(half ? b1 : b0));
}
#endif
#if __CUDA_ARCH__ >= 890
MMA(mma_e4m3, float, "+f", "m16n8k32.row.col.f32.e4m3.e4m3.f32")
#endif
#undef MMA
DEVICE void load_matrices(u32 (&r)[4], const void* s) {  // four 8 x 16-byte matrices; lane i names row i % 8 of matrix i / 8
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(s)) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* s) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(s)) : "memory");
}
#endif
