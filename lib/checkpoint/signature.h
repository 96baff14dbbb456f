// What makes a checkpoint one of this model: the fields of its configuration that decide the names, shapes and meaning
// of the weights, in a form that can be compared.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace automodel::checkpoint {

// Field -> canonical JSON text; numbers and texts that spell numbers are the same.
using Signature = std::map<std::string, std::string>;

// `config_json` is the model's config.json with the recipe's overrides; `model_id` is what the recipe calls the model.
// Throws Error(kCheckpoint) when the text is no JSON object.
Signature make_signature(const std::string& config_json, std::string_view model_id, bool peft);

// One line per field that both have and that differs: "hidden_size: 64 in the checkpoint, 128 now".
std::vector<std::string> differences(const Signature& saved, const Signature& now);

}  // namespace automodel::checkpoint
