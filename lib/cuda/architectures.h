#pragma once

#include <string_view>

namespace automodel::cuda {

// Whether code for `architectures`, as CMAKE_CUDA_ARCHITECTURES names them ("80-real,90a-real,120-virtual"), runs on a
// device of this compute capability: real code on devices of the same major and at least the minor version (with a
// letter: a, exactly that version; f, as without), virtual code on all later devices (with a letter: as real).
bool has_code(std::string_view architectures, int major, int minor);

}  // namespace automodel::cuda
