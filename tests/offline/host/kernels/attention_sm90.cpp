// What the tests call of csrc/attention/backward_sm90.cu. A call returns 0, or 1 if CUDA reports an error.
#include <attention/attention.h>

#include <cstdio>
#include <exception>

using namespace unmask::attention;

extern "C" int run_backward_sm90(
    const void* qkv, const void* out, const void* dout, const float* lse, void* dqkv, const int4* tiles,
    unsigned* ticket, const unsigned* keep, long long tokens, long long heads, long long lower, long long half,
    long long most_items, double scale_log2, double scale_grad, double keep_probability) {
  BackwardParameters p{};
  p.qkv = qkv, p.out = out, p.dout = dout, p.lse = lse, p.dqkv = dqkv, p.tiles = tiles, p.ticket = ticket;
  p.keep = keep, p.tokens = tokens, p.heads = int(heads);
  p.lower = int(lower), p.upper = int(lower) + 1;
  p.scale_log2 = float(scale_log2), p.scale_grad = float(scale_grad);
  p.inverse_keep = float(1.0 / keep_probability), p.keep_probability = float(keep_probability);
  try {
    backward_sm90(half ? Dtype::FP16 : Dtype::BF16, p, most_items, nullptr);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
