// The CUDA backend of this process: finds and opens libautomodel_cuda.so, once, when first asked for. The program links
// no CUDA library, so it runs where there is none.
//
// The plugin is looked for as AUTOMODEL_CUDA_PLUGIN says, else in the program's folder, else in ../lib beside it. Its
// CUDA libraries are those that the loader finds; else those in the folders that AUTOMODEL_CUDA_LIBRARY_PATH lists
// (separated by ':'; each may also be the `nvidia` folder of a Python environment's packages); else those in the
// `nvidia` folder of the environment that VIRTUAL_ENV or CONDA_PREFIX names.
#pragma once

#include <string>

#include "cuda/plugin.h"

namespace automodel::cuda {

struct Backend {
  const Plugin* plugin = nullptr;  // null: it could not be opened
  std::string file;                // the plugin's, when it was opened
  int devices = 0;                 // that can be used
  std::string why_not;             // a clause, when there are no devices
  bool closed = false;             // the plugin was left closed, as there is no driver

  bool usable() const { return devices > 0; }
};

// Opens the plugin, where there is a driver, and registers its kernels (ops::set_cuda_kernels). Never throws for what
// is missing. `anyway`: opens it without a driver too, which takes its time, to know the versions of its libraries.
const Backend& backend(bool anyway = false);

// In the place of what backend() would find, for tests. The plugin lives as long as the process.
void use_plugin(const Plugin& plugin);

}  // namespace automodel::cuda
