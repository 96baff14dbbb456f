// Where the program's own files lie: its recipes and the text that they train on. It is the top folder of a clone, or
// share/automodel beside the program's folder (a bundle), wherever either was moved to.
#pragma once

#include "core/file.h"

namespace automodel {

// The nearest such folder of the running program; empty when there is none.
const fs::path& program_home();

// The same for a program in `folder`.
fs::path home_of(const fs::path& folder);

// For a relative path that matches nothing in the working folder: the same path in the home; empty without a home or
// for an absolute path.
fs::path in_home(const fs::path& path);

}  // namespace automodel
