// Launches of attention's kernels for the host machine's tests.
#include <attention/attention.h>

#include <exception>

using namespace unmask::attention;

extern "C" int attention_backward_sm80(
    const void* qkv, const void* out, const void* dout, const float* lse, void* dqkv, const int4* tiles,
    unsigned* ticket, const unsigned* keep, long long tokens, int heads, int lower, int upper, int dtype,
    long long most_items, double scale, double p) {
  BackwardParameters parameters{};
  parameters.qkv = qkv, parameters.out = out, parameters.dout = dout, parameters.lse = lse, parameters.dqkv = dqkv;
  parameters.tiles = tiles, parameters.ticket = ticket, parameters.keep = keep;
  parameters.tokens = tokens, parameters.heads = heads, parameters.lower = lower, parameters.upper = upper;
  parameters.scale_log2 = float(scale * 1.4426950408889634);
  parameters.scale_grad = float(scale / (1.0 - p));
  parameters.inverse_keep = float(1.0 / (1.0 - p));
  parameters.keep_probability = float(1.0 - p);
  try {
    backward_sm80(Dtype(dtype), parameters, most_items, nullptr);
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
