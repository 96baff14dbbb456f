// Against the reference implementations in Python: what they write we read, what we write they read.
#include "checkpoint/hf_model_dir.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "support.h"

using namespace automodel;
using namespace automodel::checkpoint;
using namespace automodel::checkpoint::test;

TEST_CASE("Python's safetensors writes what we read, bit for bit") {
  std::string python = golden_python();
  if (python.empty()) return;
  TempDir dir;
  REQUIRE(run_python(python, R"(
import torch, safetensors.torch as st
g = torch.Generator().manual_seed(3)
t = {}
for name, d in dict(F64=torch.float64, F32=torch.float32, F16=torch.float16, BF16=torch.bfloat16).items():
    t[name] = torch.arange(24).reshape(2, 3, 4).to(d)
for name, d in dict(I64=torch.int64, I32=torch.int32, I16=torch.int16, I8=torch.int8, U8=torch.uint8, BOOL=torch.bool).items():
    t[name] = torch.arange(7).to(d)
t["scalar"] = torch.tensor(2.5)
t["none"] = torch.zeros(0, 4)
st.save_file(t, "python.safetensors", metadata={"format": "pt"})
)",
                     dir.path()) == 0);
  SafetensorsFile file(dir / "python.safetensors");
  CHECK(file.tensors().size() == 12);
  CHECK(file.find("F64")->shape == std::vector<int64_t>{2, 3, 4});
  float last = 0;
  std::memcpy(&last, file.bytes("F32").data() + 23 * 4, 4);
  CHECK(last == 23.0f);
  int64_t six = 0;
  std::memcpy(&six, file.bytes("I64").data() + 6 * 8, 8);
  CHECK(six == 6);
  CHECK(file.find("BOOL")->dtype == DType::kBool);
  CHECK(file.find("none")->begin == file.find("none")->end);
}

TEST_CASE("Python's safetensors reads what we plan") {
  std::string python = golden_python();
  if (python.empty()) return;
  TempDir dir;
  auto layout =
      plan_file({{"x", DType::kF32, {2, 2}}, {"y", DType::kBF16, {3}}, {"i", DType::kI64, {1}}, {"s", DType::kF32, {}}},
                {{"format", "pt"}, {"note", "a \"quoted\" word"}});
  float x[4] = {1, -2, 3.5, 1e-8f}, s = 7;
  bf16 y[3] = {to_bf16(1.5f), to_bf16(-0.25f), to_bf16(100)};
  int64_t i = -5;
  auto text = [](const auto& value) { return std::string(reinterpret_cast<const char*>(&value), sizeof value); };
  write_file(dir / "ours.safetensors", layout, {{"x", text(x)}, {"y", text(y)}, {"i", text(i)}, {"s", text(s)}});
  CHECK(run_python(python, R"(
import torch, safetensors.torch as st
from safetensors import safe_open
t = st.load_file("ours.safetensors")
assert t["x"].tolist() == [[1, -2], [3.5, torch.tensor(1e-8).item()]], t["x"]
assert t["y"].dtype == torch.bfloat16 and t["y"].tolist() == [1.5, -0.25, 100]
assert t["i"].tolist() == [-5] and t["s"].item() == 7
assert safe_open("ours.safetensors", "pt").metadata() == {"format": "pt", "note": 'a "quoted" word'}
)",
                   dir.path()) == 0);
}

TEST_CASE("transformers loads a checkpoint folder, and its consolidated folder, as they are") {
  std::string python = golden_python();
  fs::path source = fs::path(AUTOMODEL_SHARED_DIR) / "data" / "nano-sort-gpt2";
  if (python.empty()) return;
  if (!fs::exists(source)) {
    MESSAGE("skipped: " << source.string() << " is absent");
    return;
  }
  HfModelDir model(source);
  SaveRequest request;
  std::vector<std::vector<float>> values;
  for (const auto& name : model.tensors().names()) {
    if (name.ends_with(".attn.bias")) continue;
    const auto& shape = model.tensors().find(name)->tensor->shape;
    request.model.tensors.push_back({name, DType::kF32, shape});
    Region region{.name = name, .shape = shape};
    values.emplace_back(static_cast<size_t>(count_of(region)));
    LoadOptions options;
    options.expected = {{name, shape}};
    options.ignorable = {""};  // one tensor at a time
    load(model.tensors(), std::vector<LoadSlice>{{region, DType::kF32, values.back().data()}}, options);
    request.model.slices.push_back({region, DType::kF32, values.back().data()});
  }
  request.hf_files = model.companion_files();
  request.hf_files["config.json"] = model.config_text();
  request.trainer_state = "{}";
  request.consolidated = true;
  TempDir dir;
  CheckpointWriter({.root = dir.path(), .max_shard_bytes = 100000}).save(request);
  CHECK(run_python(python,
                   fmt::format(R"(
import torch, transformers
transformers.logging.set_verbosity_error()
ids = torch.tensor([[0, 2, 1, 0, 1, 2]])
def logits(path):
    model, info = transformers.GPT2LMHeadModel.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    return model(ids).logits
expected = logits("{}")
for path in ("LATEST", "epoch_0_step_0/model/consolidated"):
    assert torch.equal(logits(path), expected), path
)",
                               source.string()),
                   dir.path()) == 0);
}
