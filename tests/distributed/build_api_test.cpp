// Recorded calls of the reference's DistributedSetup.build, made again in C++ where a C++ caller can write their
// inputs.
#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "support.h"

using namespace automodel;
using namespace automodel::distributed;
using namespace automodel::distributed::testing;
using nlohmann::json;

namespace {

// Inputs that are no C++.
struct NotWritable {};

// The reference's encoding without Python's spellings: expected values.
json plain(const json& value) {
  if (value.is_object()) {
    if (value.contains("$tuple")) return plain(value["$tuple"]);
    json out = json::object();
    for (const auto& [key, item] : value.items()) {
      if (key != "_type") out[key] = plain(item);
    }
    return out;
  }
  if (value.is_array()) {
    json out = json::array();
    for (const json& item : value) out.push_back(plain(item));
    return out;
  }
  if (value.is_string() && value.get<std::string>().starts_with("torch.")) return value.get<std::string>().substr(6);
  return value;
}

bool is_new(const json& value, const char* type) {
  return value.is_object() && value.value("$new", "") == type && !value.contains("args");
}

// The arguments of a constructor as a map of plain values. Nested objects must be of the class that belongs there.
json arguments(const json& object) {
  static const std::map<std::string, std::string> classes{{"mp_policy", "MixedPrecisionPolicy"},
                                                          {"offload_policy", "CPUOffloadPolicy"},
                                                          {"multimodal", "MultimodalDistributedConfig"},
                                                          {"vision", "MultimodalVisionConfig"},
                                                          {"frame_sharding", "CpVisionFrameShardingConfig"}};
  json out = json::object();
  const json kwargs = object.value("kwargs", json::object());
  for (const auto& [key, value] : kwargs.items()) {
    if (value.is_object() && value.contains("$dtype")) {
      out[key] = value["$dtype"];
    } else if (value.is_object() && value.contains("$tuple")) {
      out[key] = value["$tuple"];
    } else if (const auto found = classes.find(key);
               found != classes.end() && !(value.is_null() && key.ends_with("_policy"))) {
      if (!is_new(value, found->second.c_str())) throw NotWritable{};
      out[key] = arguments(value);
    } else {
      // Element types are no text, and this list has to be a tuple there.
      if (key.find("dtype") != std::string::npos && !value.is_null()) throw NotWritable{};
      if (key == "mesh_dims" && value.is_array()) throw NotWritable{};
      out[key] = value;
    }
  }
  return out;
}

// Reads what a typed struct could hold; unknown and mistyped members do not compile.
template <class T>
T read_struct(const json& arguments) {
  config::Report report;
  T value = config::read<T>(config::parse_json(arguments.dump(), "record"), report);
  if (!report.empty()) throw NotWritable{};
  return value;
}

ActivationCheckpointing checkpointing(const json& value) {
  if (value == "selective") return ActivationCheckpointing::kSelective;
  if (value == "full") return ActivationCheckpointing::kFull;
  if (value.is_null()) return ActivationCheckpointing::kNone;
  if (!value.is_boolean()) throw NotWritable{};
  return value.get<bool>() ? ActivationCheckpointing::kFull : ActivationCheckpointing::kNone;
}

template <class T>
T strategy_struct(json kwargs) {
  T config;
  json scope;
  ActivationCheckpointing ac = ActivationCheckpointing::kNone;
  if (kwargs.contains("activation_checkpointing")) ac = checkpointing(kwargs["activation_checkpointing"]);
  kwargs.erase("activation_checkpointing");
  if constexpr (!std::is_same_v<T, MegatronFSDPConfig>) {
    scope = kwargs.value("activation_checkpointing_scope", json());
    kwargs.erase("activation_checkpointing_scope");
  }
  if constexpr (std::is_same_v<T, FSDP2Config>) {
    // Values that only the check of the whole finds wrong are set as a caller would.
    if (kwargs.contains("multimodal")) {
      json multimodal = kwargs["multimodal"];
      if (multimodal.contains("frozen_sharding") && !multimodal["frozen_sharding"].is_string()) throw NotWritable{};
    }
  }
  config = read_struct<T>(kwargs);
  config.activation_checkpointing = ac;
  if constexpr (!std::is_same_v<T, MegatronFSDPConfig>) {
    if (scope.is_string()) {
      config.activation_checkpointing_scope = {scope.get<std::string>()};
    } else if (scope.is_array() &&
               std::all_of(scope.begin(), scope.end(), [](const json& s) { return s.is_string(); })) {
      config.activation_checkpointing_scope = scope.get<std::vector<std::string>>();
    } else if (!scope.is_null()) {
      throw NotWritable{};
    }
  }
  return config;
}

StrategyArgument strategy_of(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (is_new(value, "FSDP2Config")) return strategy_struct<FSDP2Config>(arguments(value));
  if (is_new(value, "DDPConfig")) return strategy_struct<DDPConfig>(arguments(value));
  if (is_new(value, "MegatronFSDPConfig")) return strategy_struct<MegatronFSDPConfig>(arguments(value));
  throw NotWritable{};
}

ParallelismSizes sizes_of(const json& value) {
  if (!is_new(value, "ParallelismSizes")) throw NotWritable{};
  ParallelismSizes sizes;
  const json kwargs = value.value("kwargs", json::object());
  for (const auto& [key, size] : kwargs.items()) {
    const bool optional = key == "dp_size" || key == "dp_replicate_size";
    if (!(size.is_number_integer() || (size.is_null() && optional))) throw NotWritable{};
    const auto number = size.is_null() ? std::nullopt : std::optional(size.get<int64_t>());
    if (key == "dp_size")
      sizes.dp_size = number;
    else if (key == "dp_replicate_size")
      sizes.dp_replicate_size = number;
    else if (key == "tp_size")
      sizes.tp_size = *number;
    else if (key == "pp_size")
      sizes.pp_size = *number;
    else if (key == "cp_size")
      sizes.cp_size = *number;
    else if (key == "ep_size")
      sizes.ep_size = *number;
    else
      throw NotWritable{};
  }
  return sizes;
}

// A map of plain values, as YAML would give it; element types are written as text.
config::Node node_of(const json& map) {
  json out = json::object();
  for (const auto& [key, value] : map.items()) {
    out[key] = value.is_object() && value.contains("$dtype") ? value["$dtype"] : value;
  }
  return config::parse_json(out.dump(), "record");
}

template <class T>
PolicyArgument<T> policy_of(const json& value, const char* type) {
  if (value.is_null()) return std::monostate{};
  if (is_new(value, type)) return read_struct<T>(arguments(value));
  if (!value.is_object() || value.contains("$new")) throw NotWritable{};
  config::Node map = node_of(value);
  // A map with a value of the wrong type is taken unchecked there and refused here.
  config::Report report;
  config::read<T>(map, report);
  for (const config::Problem& problem : report.problems()) {
    if (problem.message != "unknown key") throw NotWritable{};
  }
  return map;
}

SetupRequest request_of(const json& record) {
  SetupRequest request;
  request.job_size = record["dist_world_size"].get<int64_t>();
  request.world_size = request.job_size;
  for (const auto& [key, value] : record["input"].items()) {
    if (key == "strategy")
      request.strategy = strategy_of(value);
    else if (key == "parallelism_sizes") {
      if (!value.is_null()) request.parallelism_sizes = sizes_of(value);
    } else if (key == "pipeline_config")
      request.pipeline_config = policy_of<PipelineConfig>(value, "PipelineConfig");
    else if (key == "moe_parallel_config")
      request.moe_parallel_config = policy_of<MoEParallelizerConfig>(value, "MoEParallelizerConfig");
    else if (key == "activation_checkpointing")
      request.activation_checkpointing = checkpointing(value);
    else if (key == "world_size") {
      if (!value.is_number_integer() && !value.is_null()) throw NotWritable{};
      if (!value.is_null()) request.world_size = value.get<int64_t>();
    } else if (key == "timeout_minutes") {
      if (!value.is_null()) request.timeout_minutes = value.get<double>();
    } else if (key == "ranks") {
      const json list = plain(value);
      if (!list.is_array() || list.empty()) throw NotWritable{};
      request.ranks = list.get<std::vector<int>>();
    } else {
      throw NotWritable{};
    }
  }
  return request;
}

// Sizes of 0 or less, and world sizes that no job has, are refused here and taken there.
bool stricter(const json& record, const SetupRequest& request) {
  const ParallelismSizes& s = request.parallelism_sizes;
  for (int64_t size : {s.dp_replicate_size.value_or(1), s.tp_size, s.pp_size, s.cp_size, s.ep_size}) {
    if (size <= 0) return true;
  }
  if (*request.world_size <= 0) return true;
  const json mesh = record.value("mesh", json());
  if (record["status"] != "ok") return false;
  // A set-up that leaves ranks of the job idle.
  if (request.ranks.empty() && *request.world_size != *request.job_size) return true;
  if (mesh.is_null() || !request.ranks.empty()) return false;
  int64_t product = 1;
  for (const json& size : mesh["shape"]) product *= size.get<int64_t>();
  return product != *request.job_size;
}

// Records list the groups of an axis by their smallest rank.
json by_smallest(json groups) {
  std::sort(groups.begin(), groups.end(), [](const json& a, const json& b) {
    return *std::min_element(a.begin(), a.end()) < *std::min_element(b.begin(), b.end());
  });
  return groups;
}

bool same(const json& a, const json& b) {
  if (a.is_number() && b.is_number()) return a.get<double>() == b.get<double>();
  if (a.is_object() && b.is_object()) {
    if (a.size() != b.size()) return false;
    for (const auto& [key, value] : a.items()) {
      if (!b.contains(key) || !same(value, b[key])) return false;
    }
    return true;
  }
  if (a.is_array() && b.is_array()) return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), same);
  return a == b;
}

// The first difference between a record and our set-up; "" for none.
std::string difference(const json& record, const json& ours) {
  static const std::map<std::string, std::string> strategies{
      {"FSDP2Config", "fsdp2"}, {"DDPConfig", "ddp"}, {"MegatronFSDPConfig", "megatron_fsdp"}};
  const auto differ = [](const std::string& what, const json& expected, const json& got) {
    return what + ": expected " + expected.dump() + ", got " + got.dump();
  };
  if (ours["strategy"] != strategies.at(record["strategy_class"]))
    return differ("strategy", record["strategy_class"], ours["strategy"]);
  for (const char* part : {"strategy_options", "pipeline", "moe"}) {
    const json expected = plain(record[part]);
    if (expected.is_null() != ours[part].is_null()) return differ(part, expected, ours[part]);
    for (const auto& [key, value] : expected.items()) {
      if (key == "loss_fn" || key == "activation_checkpointing") continue;
      // A map of a policy stays a map of text there.
      if (std::string(part) == "moe" && key == "mp_policy" && value.is_object()) continue;
      if (!ours[part].contains(key) || !same(value, ours[part][key]))
        return differ(std::string(part) + "." + key, value, ours[part].value(key, json()));
    }
  }
  json checkpointing = record["activation_checkpointing"];
  if (checkpointing == "full" || checkpointing.is_null()) checkpointing = !checkpointing.is_null();
  if (checkpointing != ours["activation_checkpointing"])
    return differ("activation_checkpointing", checkpointing, ours["activation_checkpointing"]);
  for (const char* part : {"mesh", "moe_mesh"}) {
    if (!same(plain(record[part]), ours[part])) return differ(part, record[part], ours[part]);
  }
  for (const char* part : {"flattened", "groups"}) {
    const json expected = record.value(part, json());
    if (expected.is_null()) continue;
    for (const auto& [axis, value] : expected.items()) {
      const auto& known = axis_names();
      if (std::find(known.begin(), known.end(), axis) == known.end()) continue;
      const json own = ours[part].value(axis, json());
      if (!same(value, own.is_array() ? by_smallest(own) : own))
        return differ(std::string(part) + "." + axis, value, ours[part].value(axis, json()));
    }
  }
  return "";
}

// The records of one function, in order; empty, with a message, when the file is not there.
std::vector<json> records_of(const std::string& api) {
  std::vector<json> records;
  std::ifstream file(AUTOMODEL_SHARED_DIR "/conformance/build_api.jsonl");
  if (!file) MESSAGE("skipped: there is no ../shared/conformance/build_api.jsonl");
  for (std::string line; std::getline(file, line);) {
    json record = json::parse(line);
    if (record["api"] == api) records.push_back(std::move(record));
  }
  return records;
}

struct Counts {
  int agree = 0, refused_here = 0, not_writable = 0;
};

void report(size_t records, const Counts& counts) {
  MESSAGE(records << " calls: " << counts.agree << " agree, " << counts.refused_here << " are refused here on purpose, "
                  << counts.not_writable << " cannot be written in C++");
  CHECK(static_cast<size_t>(counts.agree + counts.refused_here + counts.not_writable) == records);
}

SectionRequest section_request_of(const json& record) {
  SectionRequest request;
  request.job_size = record["dist_world_size"].get<int64_t>();
  request.world_size = request.job_size;
  json keywords = json::object();
  for (const auto& [key, value] : record["input"].items()) {
    if (key == "cfg") {
      request.config = config::parse_json(value.dump(), "record");
    } else if (key == "world_size") {
      request.world_size = value.get<int64_t>();
    } else if (key == "timeout_minutes") {
      request.timeout_minutes = value.get<double>();
    } else {
      keywords[key] = is_new(value, "CPUOffloadPolicy") ? json::object() : value;
      if (value.is_object() && value.contains("$dtype")) keywords[key] = value["$dtype"];
      if (key == "pipeline" && value.is_object() && value.contains("dtype") && value["dtype"].is_object())
        keywords[key]["dtype"] = value["dtype"]["$dtype"];
      if (key.ends_with("_size") && !value.is_number_integer()) throw NotWritable{};
      if (value.is_number_integer() && key.ends_with("_size") && value.get<int64_t>() <= 0) throw NotWritable{};
    }
  }
  request.keywords = config::parse_json(keywords.dump(), "record");
  return request;
}

}  // namespace

TEST_CASE("Recorded calls of the API agree wherever C++ can make them") {
  const std::vector<json> records = records_of("DistributedSetup.build");
  if (records.empty()) return;
  Counts counts;
  for (const json& record : records) {
    CAPTURE(record["id"].get<std::string>());
    CAPTURE(record["input"].dump());
    SetupRequest request;
    try {
      request = request_of(record);
    } catch (const NotWritable&) {
      ++counts.not_writable;
      continue;
    }
    const std::string error = build_error(request);
    if (stricter(record, request)) {
      CHECK(!error.empty());
      ++counts.refused_here;
      continue;
    }
    CAPTURE(error);
    CHECK(error.empty() == (record["status"] == "ok"));
    if (error.empty() && record["status"] == "ok") {
      const json ours = to_json(DistributedSetup::build(request), request.parallelism_sizes);
      const std::string wrong = difference(record, ours);
      CHECK_MESSAGE(wrong.empty(), wrong);
      if (!wrong.empty()) continue;
    }
    ++counts.agree;
  }
  report(records.size(), counts);
  CHECK(counts.agree > 300);
}

TEST_CASE("Recorded calls of the recipe adapter agree wherever C++ can make them") {
  const std::vector<json> records = records_of("create_distributed_setup_from_config");
  if (records.empty()) return;
  Counts counts;
  for (const json& record : records) {
    CAPTURE(record["input"].dump());
    SectionRequest request;
    try {
      request = section_request_of(record);
    } catch (const NotWritable&) {
      ++counts.not_writable;
      continue;
    }
    std::optional<DistributedSetup> setup;
    std::string error;
    try {
      setup = create_distributed_setup(request);
    } catch (const Error& e) {
      error = e.what();
    }
    CAPTURE(error);
    CHECK(setup.has_value() == (record["status"] == "ok"));
    if (setup && record["status"] == "ok") {
      const std::string wrong = difference(record, to_json(*setup, {}));
      CHECK_MESSAGE(wrong.empty(), wrong);
      if (!wrong.empty()) continue;
    }
    ++counts.agree;
  }
  report(records.size(), counts);
}
