// The Python module unmask_kernels._cpu: kernels for CPUs in C++. Arrays come as addresses.
//
// `setup.py` defines UNMASK_VERSION and UNMASK_SOURCES (a hash of this folder).

#include <cpu/philox.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace unmask::cpu {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace
}  // namespace unmask::cpu

PYBIND11_MODULE(_cpu, m) {
  using namespace unmask::cpu;
  m.doc() = "Kernels of unmask_kernels for CPUs in C++; see unmask_kernels.philox_cpp.";
  m.attr("version") = UNMASK_VERSION;
  m.attr("sources") = UNMASK_SOURCES;
  m.def("use_vectors", &use_vectors);
  m.def("keep_rows", [](uint64_t key, uintptr_t row_keys, int64_t rows, int64_t columns, uint32_t bound, int threads,
                        uintptr_t keep) {
    py::gil_scoped_release others_may_run;
    keep_rows({key, columns, bound, threads, pointer<uint8_t>(keep)}, pointer<const uint64_t>(row_keys), rows);
  });
  m.def("keep_scores", [](uint64_t key, uintptr_t document_keys, int64_t documents, int64_t heads, int64_t first_row,
                          int64_t rows, int64_t columns, uint32_t bound, int threads, uintptr_t keep) {
    py::gil_scoped_release others_may_run;
    keep_scores({key, columns, bound, threads, pointer<uint8_t>(keep)}, pointer<const uint64_t>(document_keys),
                documents, heads, first_row, rows);
  });
}
