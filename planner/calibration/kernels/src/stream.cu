// Reading and copying memory, and a kernel that does nothing. Vectors are 16 bytes; UNROLL of them per thread are in
// flight before the first is used. Blocks walk the array together, so that neighbours share DRAM pages.
#include "prim.cuh"

#if defined(UNROLL)
KERNEL stream_read(const v4u* source, u64 vectors, u32* sink) {
  u32 sum[4] = {0, 0, 0, 0};
  const u64 step = (u64)gridDim.x * THREADS * UNROLL;
  for (u64 base = (u64)blockIdx.x * THREADS * UNROLL; base < vectors; base += step) {
    v4u r[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const u64 i = base + (u64)u * THREADS + threadIdx.x;
      r[u] = i < vectors ? load_once(source + i) : v4u{0, 0, 0, 0};
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) { sum[0] ^= r[u].x; sum[1] ^= r[u].y; sum[2] ^= r[u].z; sum[3] ^= r[u].w; }
  }
  store(sink + blockIdx.x * THREADS + threadIdx.x, sum[0] ^ sum[1] ^ sum[2] ^ sum[3]);  // unconditional: can be checked
}

KERNEL stream_copy(const v4u* source, v4u* target, u64 vectors) {
  const u64 step = (u64)gridDim.x * THREADS * UNROLL;
  for (u64 base = (u64)blockIdx.x * THREADS * UNROLL; base < vectors; base += step) {
    v4u r[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const u64 i = base + (u64)u * THREADS + threadIdx.x;
      if (i < vectors) r[u] = load_once(source + i);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      const u64 i = base + (u64)u * THREADS + threadIdx.x;
      if (i < vectors) store_once(target + i, r[u]);
    }
  }
}
#else
KERNEL empty() {}
#endif
