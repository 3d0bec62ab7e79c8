// The Python module unmask_kernels._C: a submodule for each family, and facts about the build and the machine.
//
// Tensors come as addresses and streams as handles, so the module needs no PyTorch and fits any. `setup.py` writes
// build_facts.h, with UNMASK_VERSION, UNMASK_SOURCES (a hash of this folder) and UNMASK_ARCHITECTURES.

#include <build_facts.h>
#include <common/check.h>
#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace unmask {

void register_optimizer(py::module_& module);

namespace {

// Return the newest version of CUDA that the driver knows, such as 13000; 0 without a driver.
int driver_version() {
  int version = 0;
  check(cudaDriverGetVersion(&version), "unmask_kernels._C: the version of the driver is not known");
  return version;
}

}  // namespace
}  // namespace unmask

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of unmask_kernels in CUDA C++; see unmask_kernels.extension.";
  m.attr("version") = UNMASK_VERSION;
  m.attr("sources") = UNMASK_SOURCES;
  m.attr("architectures") = UNMASK_ARCHITECTURES;
  m.attr("runtime_version") = CUDART_VERSION;
  m.def("driver_version", &unmask::driver_version);
  unmask::register_optimizer(m);
}
