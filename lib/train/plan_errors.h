// What makes a plan impossible, for programs.
#pragma once

#include <string>

#include "core/error.h"

namespace automodel::train {

// An Error that ended the planning of the recipe at `path`, in the form of config::Report::json(): a list of one
// {"key", "message", "hint", "source"}. `source` is the file, the place in it or the flag that the message begins with.
std::string errors_json(const Error& error, const std::string& path);

}  // namespace automodel::train
