#include "checkpoint/hf_model_dir.h"
#include "support.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

namespace {

std::string one_tensor(const std::string& name, const std::string& dtype = "F32") {
  std::string bytes = dtype == "F32" ? "8" : "4";
  return raw_file("{\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":[2],\"data_offsets\":[0," + bytes + "]}}",
                  dtype == "F32" ? "01234567" : "0123");
}

std::string refusal(const std::function<void()>& action) {
  Error error = error_of(action);
  CHECK(error.fault() == Fault::kCheckpoint);
  return error.what();
}

// Sets a variable for as long as it lives.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

}  // namespace

TEST_CASE("a folder with one weight file opens, with its config and companion files") {
  TempDir dir;
  write_text(dir / "config.json", R"({"model_type": "gpt2", "torch_dtype": "bfloat16"})");
  write_text(dir / "model.safetensors", one_tensor("a"));
  write_text(dir / "tokenizer.json", "{}");
  write_text(dir / "notes.txt", "mine");
  HfModelDir model(dir.path());
  CHECK(model.tensors().size() == 1);
  CHECK(model.tensors().find("a")->bytes().size() == 8);
  CHECK(contains(model.config_text(), "gpt2"));
  CHECK(model.torch_dtype() == DType::kBF16);
  CHECK(model.companion_files() == std::map<std::string, std::string>{{"tokenizer.json", "{}"}});
}

TEST_CASE("without a dtype in the config, auto is the type of most weights") {
  TempDir dir;
  write_text(dir / "config.json", R"({"torch_dtype": null})");
  write_text(dir / "model.safetensors", one_tensor("a", "F16"));
  CHECK(HfModelDir(dir.path()).torch_dtype() == DType::kF16);
  CHECK(!HfModelDir(dir.path(), HfModelDir::Weights::kIgnored).torch_dtype());
  write_text(dir / "config.json", R"({"dtype": "float32", "torch_dtype": "float16"})");
  CHECK(HfModelDir(dir.path()).torch_dtype() == DType::kF32);
}

TEST_CASE("shards are merged by their index") {
  TempDir dir;
  write_text(dir / "config.json", "{}");
  write_text(dir / "model-00001-of-00002.safetensors", one_tensor("a"));
  write_text(dir / "model-00002-of-00002.safetensors", one_tensor("b"));
  auto index = [&](const std::string& a, const std::string& b) {
    write_text(dir / "model.safetensors.index.json",
               R"({"metadata":{"total_size":16},"weight_map":{"a":")" + a + R"(","b":")" + b + R"("}})");
  };
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  index(first, second);
  CHECK(HfModelDir(dir.path()).tensors().size() == 2);

  index(first, "model-00003-of-00003.safetensors");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "model-00003-of-00003.safetensors"));
  index(second, first);
  std::string swapped = refusal([&] { HfModelDir{dir.path()}; });
  CHECK(contains(swapped, "a (model-00002-of-00002.safetensors)"));
  CHECK(contains(swapped, "b (model-00001-of-00002.safetensors)"));
  index(first, "../" + second);
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "no file name"));
  write_text(dir / "model-00002-of-00002.safetensors", one_tensor("a"));
  index(first, second);
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "already in"));
  write_text(dir / "model.safetensors.index.json", "{");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "not valid JSON"));
  write_text(dir / "model.safetensors.index.json", "{}");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "weight_map"));
}

TEST_CASE("folders without usable weights say what to do") {
  TempDir dir;
  CHECK(contains(refusal([&] { HfModelDir{dir / "gone"}; }), "no such model folder"));
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "config.json"));
  write_text(dir / "config.json", "[1]");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "no JSON object"));
  write_text(dir / "config.json", "{}");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "neither model.safetensors nor"));
  write_text(dir / "model-00001-of-00002.safetensors", one_tensor("a"));
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "it has model-00001-of-00002.safetensors"));
  write_text(dir / "adapter_model.safetensors", one_tensor("a"));
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "LoRA adapter"));
  fs::remove(dir / "adapter_model.safetensors");
  write_text(dir / "pytorch_model.bin", "PK");
  CHECK(contains(refusal([&] { HfModelDir{dir.path()}; }), "convert"));
  CHECK(HfModelDir(dir.path(), HfModelDir::Weights::kIgnored).tensors().size() == 0);
}

TEST_CASE("a hub id is found in the local cache or the error says where files go") {
  TempDir dir;
  fs::path model = dir.path() / "hub" / "models--org--tiny";
  write_text(model / "refs" / "main", "abc123\n");
  fs::create_directories(model / "snapshots" / "abc123");
  fs::create_directories(model / "snapshots" / "def456");
  fs::create_directories(dir.path() / "hub" / "models--gpt2" / "snapshots" / "1");
  Variable home("HF_HOME", dir.path().string());
  Variable cache("HF_HUB_CACHE", "");
  CHECK(find_model_dir({"org/tiny"}) == model / "snapshots" / "abc123");
  CHECK(find_model_dir({"org/tiny", "def456"}) == model / "snapshots" / "def456");
  CHECK(find_model_dir({.name_or_path = "gpt2", .revision = "1"}).filename() == "1");
  CHECK(find_model_dir({"org/tiny", "main", dir.path() / "hub"}) == model / "snapshots" / "abc123");
  CHECK(find_model_dir({dir.path().string()}) == dir.path());

  std::string absent = refusal([] { find_model_dir({"org/large"}); });
  CHECK(contains(absent, "org/large"));
  CHECK(contains(absent, "Downloading is not built in"));
  CHECK(contains(absent, (dir.path() / "hub").string()));
  CHECK(contains(refusal([] { find_model_dir({"org/tiny", "v9"}); }), "v9"));
  CHECK(contains(refusal([] { find_model_dir({"/no/such/model"}); }), "/no/such/model"));
  CHECK(contains(refusal([] { find_model_dir({"./model"}); }), "no such model folder"));
  write_text(dir / "file", "");
  CHECK(contains(refusal([&] { find_model_dir({(dir / "file").string()}); }), "is a file"));
  CHECK(contains(refusal([] { find_model_dir({""}); }), "no name"));
}
