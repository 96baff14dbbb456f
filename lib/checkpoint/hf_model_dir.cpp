#include "checkpoint/hf_model_dir.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace automodel::checkpoint {
namespace {

using nlohmann::json;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

// The names in a folder, sorted; none when it cannot be read.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::ranges::sort(names);
  return names;
}

json parse_object(const std::string& text, const fs::path& path) {
  try {
    json value = json::parse(text);
    AM_CHECK(value.is_object(), Fault::kCheckpoint, "{}: holds no JSON object", path.string());
    return value;
  } catch (const json::parse_error& error) {
    fail(Fault::kCheckpoint, "{}: is not valid JSON (byte {}); the file is damaged", path.string(), error.byte);
  }
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path hub_cache() {
  if (auto cache = variable("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (auto home = variable("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (auto cache = variable("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "huggingface" / "hub";
  return fs::path(variable("HOME")) / ".cache" / "huggingface" / "hub";
}

// "name" or "org/name", of letters, digits, '-', '_' and '.', as the hub has them.
bool looks_like_hub_id(std::string_view text) {
  auto part_ok = [](std::string_view part) {
    return !part.empty() && part.front() != '.' && part.size() <= 96 && std::ranges::all_of(part, [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
    });
  };
  auto slash = text.find('/');
  if (slash == std::string_view::npos) return part_ok(text);
  return part_ok(text.substr(0, slash)) && part_ok(text.substr(slash + 1));
}

// The snapshot of a hub id in the cache; empty when there is none.
fs::path cached_snapshot(const fs::path& cache, const std::string& id, const std::string& revision) {
  std::string folder = "models--" + id;
  if (auto slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  fs::path model = cache / folder;
  if (revision.find("..") != std::string::npos) return {};
  if (fs::path ref = model / "refs" / revision; is_there(ref) && !is_folder(ref)) {
    std::string commit = read_file(ref);
    commit.erase(commit.find_last_not_of(" \r\n\t") + 1);
    if (!commit.empty() && is_folder(model / "snapshots" / commit)) return model / "snapshots" / commit;
  }
  if (!revision.empty() && is_folder(model / "snapshots" / revision)) return model / "snapshots" / revision;
  return {};
}

// Why a folder without model.safetensors cannot be used.
[[noreturn]] void fail_without_weights(const fs::path& folder) {
  std::string found;
  for (const auto& name : names_in(folder)) {
    if (name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth") || name.ends_with(".ckpt"))
      fail(Fault::kCheckpoint,
           "{}: the weights are pickled ({}), which this program does not read; convert them to model.safetensors, for "
           "example with transformers: AutoModelForCausalLM.from_pretrained(dir).save_pretrained(dir)",
           folder.string(), name);
    if (name.starts_with("adapter_model."))
      fail(Fault::kCheckpoint, "{}: holds a LoRA adapter ({}) and no model; name the folder of the base model",
           folder.string(), name);
    if (name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".h5") ||
        name.ends_with(".msgpack"))
      found += (found.empty() ? "" : ", ") + name;
  }
  fail(Fault::kCheckpoint, "{}: has neither model.safetensors nor model.safetensors.index.json{}", folder.string(),
       found.empty() ? std::string("; is this the folder of a model?") : "; it has " + found);
}

}  // namespace

fs::path find_model_dir(const ModelLocation& location) {
  const std::string& name = location.name_or_path;
  AM_CHECK(!name.empty(), Fault::kCheckpoint, "the model has no name: give a folder or a hub id");
  if (is_folder(name)) return name;
  AM_CHECK(!is_there(name), Fault::kCheckpoint, "{}: is a file; name the folder that holds config.json and the weights",
           name);
  AM_CHECK(looks_like_hub_id(name), Fault::kCheckpoint,
           "{}: there is no such model folder; name one that holds config.json and the weights, or a hub id (org/name) "
           "that is in the local cache",
           name);

  fs::path cache = location.cache_dir.empty() ? hub_cache() : location.cache_dir;
  fs::path found = cached_snapshot(cache, name, location.revision);
  AM_CHECK(!found.empty(), Fault::kCheckpoint,
           "'{}' is no folder here, and revision '{}' of it is not in the hub cache {}. Downloading is not built in: "
           "fetch it with 'huggingface-cli download {}', or put config.json, the safetensors files and tokenizer.json "
           "into a folder and name that folder",
           name, location.revision, cache.string(), name);
  return found;
}

HfModelDir::HfModelDir(const fs::path& folder, Weights weights) : folder_(folder), tensors_(folder) {
  AM_CHECK(is_folder(folder), Fault::kCheckpoint, "{}: there is no such model folder", folder.string());
  fs::path config = folder / "config.json";
  AM_CHECK(is_there(config), Fault::kCheckpoint, "{}: has no config.json; is this the folder of a model?",
           folder.string());
  config_text_ = read_file(config);
  parse_object(config_text_, config);
  if (weights == Weights::kRequired) open_weights();
}

void HfModelDir::open_weights() {
  if (is_there(folder_ / "model.safetensors")) {
    tensors_.add_file(folder_ / "model.safetensors");
  } else if (is_there(folder_ / "model.safetensors.index.json")) {
    open_shards(folder_ / "model.safetensors.index.json");
  } else {
    fail_without_weights(folder_);
  }
}

void HfModelDir::open_shards(const fs::path& index) {
  json content = parse_object(read_file(index), index);
  auto map = content.find("weight_map");
  AM_CHECK(map != content.end() && map->is_object(), Fault::kCheckpoint, "{}: has no weight_map", index.string());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    AM_CHECK(shard.is_string(), Fault::kCheckpoint, "{}: '{}' has no file name", index.string(), tensor);
    auto name = shard.get<std::string>();
    AM_CHECK(!name.empty() && fs::path(name).filename() == name && name != "..", Fault::kCheckpoint,
             "{}: '{}' is said to lie in '{}', which is no file name", index.string(), tensor, name);
    shards.insert(name);
  }
  std::string missing;
  for (const auto& shard : shards)
    if (!is_there(folder_ / shard)) missing += (missing.empty() ? "" : ", ") + shard;
  AM_CHECK(missing.empty(), Fault::kCheckpoint, "{}: names files that are not there: {}; copy the whole model folder",
           index.string(), missing);
  for (const auto& shard : shards) tensors_.add_file(folder_ / shard);

  std::string lost;
  for (const auto& [tensor, shard] : map->items()) {
    const SourceTensor* found = tensors_.find(tensor);
    if (found == nullptr || found->file->path().filename() != shard.get_ref<const std::string&>())
      lost += "\n  " + tensor + " (" + shard.get<std::string>() + ")";
  }
  AM_CHECK(lost.empty(), Fault::kCheckpoint, "{}: these tensors are not in the file that it says:{}", index.string(),
           lost);
}

std::optional<DType> HfModelDir::torch_dtype() const {
  json config = json::parse(config_text_);
  for (const char* key : {"dtype", "torch_dtype"}) {
    auto value = config.find(key);
    if (value == config.end() || !value->is_string()) continue;
    auto dtype = parse_dtype(value->get_ref<const std::string&>());
    if (dtype && is_floating(*dtype)) return dtype;
  }
  std::map<DType, uint64_t> bytes;
  for (const auto& name : tensors_.names()) {
    const SourceTensor* source = tensors_.find(name);
    if (is_floating(source->tensor->dtype)) bytes[source->tensor->dtype] += source->bytes().size();
  }
  auto most = std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  return most == bytes.end() ? std::nullopt : std::optional(most->first);
}

std::map<std::string, std::string> HfModelDir::companion_files() const {
  static constexpr std::array kNames = {"generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "vocab.txt",
                                        "tokenizer.model",
                                        "spiece.model",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "preprocessor_config.json"};
  std::map<std::string, std::string> files;
  for (const char* name : kNames)
    if (is_there(folder_ / name) && !is_folder(folder_ / name)) files[name] = read_file(folder_ / name);
  return files;
}

}  // namespace automodel::checkpoint
