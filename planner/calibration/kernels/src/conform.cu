// One warp, sixteen words in and four out per lane: shows what a primitive does, on a GPU and in the emulator alike.
#include "prim.cuh"

#define IS_MMA_F16 0
#define IS_MMA_BF16 1
#define IS_MMA_S8 2
#define IS_MMA_E4M3 3
#define IS_MATRICES 4
#define IS_TRANSPOSED 5
#define IS_PACKED 6
#define IS_CONVERTED 7
#define IS_INTEGER 8
#define IS_POWER 9
#define IS_UNSIGNED 10

KERNEL conform(const u32* in, u32* out) {
  SHARED(shared);
  const int lane = threadIdx.x;
  u32 w[16], r[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 16; ++i) w[i] = load(in + lane * 16 + i);
#if OPERATION <= IS_MMA_E4M3
  const u32 a[4] = {w[0], w[1], w[2], w[3]};
#if OPERATION == IS_MMA_S8
  int d[4] = {(int)w[8], (int)w[9], (int)w[10], (int)w[11]};
  mma_s8(d, a, w[4], w[5]);
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = (u32)d[i];
#else
  float d[4] = {as_float(w[8]), as_float(w[9]), as_float(w[10]), as_float(w[11])};
#if OPERATION == IS_MMA_F16
  mma_f16(d, a, w[4], w[5]);
#elif OPERATION == IS_MMA_BF16
  mma_bf16(d, a, w[4], w[5]);
#else
  mma_e4m3(d, a, w[4], w[5]);
#endif
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = as_bits(d[i]);
#endif
#elif OPERATION <= IS_TRANSPOSED
#pragma unroll
  for (int i = 0; i < 4; ++i) ((u32*)shared)[lane * 4 + i] = w[i];
  sync_block();
#if OPERATION == IS_MATRICES
  load_matrices(r, shared + lane * 16);
#else
  load_matrices_transposed(r, shared + lane * 16);
#endif
#elif OPERATION == IS_PACKED
  r[0] = fma_f16x2(w[0], w[1], w[2]);
  r[1] = sub_f16x2(w[0], w[1]);
  r[2] = fma_bf16x2(w[3], w[4], w[5]);
  r[3] = fma_bf16x2(w[6], 0x7b807b80u, 0u);
#elif OPERATION == IS_CONVERTED
  r[0] = pack_f16(as_float(w[8]), as_float(w[9]));
  r[1] = pack_bf16(as_float(w[8]), as_float(w[9]));
  r[2] = to_f16(as_float(w[10])) | (u32)to_bf16(as_float(w[10])) << 16;
  r[3] = as_bits(from_f16((u16)w[0]));
#elif OPERATION == IS_INTEGER
  r[0] = lop3<0xea>(w[0], w[1], w[2]);
  r[1] = permute(w[0], w[1], w[2]);
  r[2] = (u32)dot4((int)w[0], (int)w[1], (int)w[2]);
  r[3] = shuffle_xor(w[0], 5);
#elif OPERATION == IS_UNSIGNED
  r[0] = (u32)dot4_unsigned(w[0], (int)w[1], (int)w[2]);
#else
  r[0] = as_bits(power2(as_float(w[8])));
#endif
#pragma unroll
  for (int i = 0; i < 4; ++i) store(out + lane * 4 + i, r[i]);
}
