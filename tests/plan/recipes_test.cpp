// Every recipe under recipes/, made small, planned, then really trained by the trainer on ranks that are threads.
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "checkpoint/directory.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/rng.h"
#include "support/run_mesh.h"
#include "train/plan_job.h"
#include "train/trainer.h"

using namespace automodel;

namespace {

// A folder of the test's own with data for the recipes: a text, a token file, a pretrained model.
struct Folder {
  Folder() : path(fs::temp_directory_path() / ("automodel-plan-" + std::to_string(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
    Random random(5, "text");
    std::string text;
    for (uint64_t i = 0; text.size() < 6000; ++i) text += static_cast<char>('a' + random.below(26, i)), text += ' ';
    std::ofstream(path / "text.txt") << text;
    std::ofstream tokens(path / "tokens.bin", std::ios::binary);
    for (uint64_t i = 0; i < 6000; ++i) {
      auto token = static_cast<uint16_t>(random.below(500, i));
      tokens.write(reinterpret_cast<const char*>(&token), sizeof token);
    }
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name) const { return (path / name).string(); }
  fs::path path;
};

std::string recipe_file(const std::string& name) {
  return std::string(AUTOMODEL_SOURCE_DIR) + "/recipes/" + name;
}

// What makes a recipe small enough for a test; its structure stays.
std::map<std::string, std::string> small(const Folder& folder) {
  const std::string text = folder.file("text.txt");
  return {
      {"quickstart.yaml", "--dataset.path " + text + " --validation_dataset.path " + text +
                              " --dataset.seq_len 32 --dataset.validation_fraction 0.3"
                              " --validation_dataset.seq_len 48 --validation_dataset.validation_fraction 0.3"
                              " --model.config.hidden_size 40 --model.config.intermediate_size 64"
                              " --step_scheduler.global_batch_size 24 --step_scheduler.local_batch_size 4"},
      {"mock/smoke.yaml", "--step_scheduler.global_batch_size 24 --step_scheduler.local_batch_size 2"},
      {"gpt2/pretrain.yaml", "--dataset.file_pattern " + folder.file("tokens.bin") +
                                 " --dataset.seq_len 48 --model.config.vocab_size 640 --model.config.n_embd 48"
                                 " --model.config.n_layer 3 --step_scheduler.global_batch_size 24"
                                 " --step_scheduler.local_batch_size 2"},
      {"llama/finetune.yaml", "--dataset.path " + text + " --validation_dataset.path " + text +
                                  " --dataset.seq_len 40 --validation_dataset.seq_len 40 --tokenizer byte"
                                  " --step_scheduler.global_batch_size 12 --model.pretrained_model_name_or_path " +
                                  folder.file("pretrained/LATEST")},
  };
}

// A recipe with what makes it small, and more.
train::RecipeSource shrunk(const std::string& name, const Folder& folder, const std::string& more) {
  auto all = small(folder);
  auto found = all.find(name);
  REQUIRE_MESSAGE(found != all.end(), "a new recipe: add what makes it small to this test");
  std::istringstream words(found->second + " --lr_scheduler none " + more);
  return {recipe_file(name), {std::istream_iterator<std::string>(words), {}}};
}

std::vector<std::string> all_recipes() {
  std::vector<std::string> names;
  fs::path root = recipe_file("");
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.path().extension() == ".yaml") names.push_back(fs::relative(entry.path(), root).string());
  std::ranges::sort(names);
  return names;
}

// What one rank of the trainer did in each step.
struct Seen {
  std::vector<int64_t> peaks;
  std::vector<plan::Traffic> traffic;
  int64_t validation_peak = 0;  // after the last step
};

// The trainer starts its records anew after each step and tells the signals then, so the calls between two signals,
// and the highest peak seen at them, are one step's.
Seen train_and_watch(const train::RecipeSource& recipe, comm::World& world) {
  Seen seen;
  const train::Trainer* trainer = nullptr;
  plan::Traffic traffic;
  int64_t peak = 0;
  bool in_steps = false;
  auto job = train::prepare(recipe, world.size(), true);
  world.observe([&](const comm::CallRecord& call) {
    if (!in_steps) return;
    traffic.add(call);
    peak = std::max(peak, const_cast<train::Trainer*>(trainer)->engine().allocator().stats().peak_total);
  });
  train::Trainer made(job, world);
  trainer = &made;
  in_steps = true;
  made.run([&] {
    seen.peaks.push_back(peak);
    // The signal's own call comes after this.
    seen.traffic.push_back(traffic);
    traffic = {};
    peak = 0;
    return 0;
  });
  seen.validation_peak = made.engine().allocator().stats().peak_total;
  return seen;
}

// A model folder as the finetuning recipe wants it, made by the program itself.
void make_pretrained(const Folder& folder) {
  auto world = comm::World::single();
  auto job =
      train::prepare(shrunk("quickstart.yaml", folder,
                            "--step_scheduler.max_steps 1 --checkpoint.checkpoint_dir " + folder.file("pretrained")),
                     1, true);
  train::Trainer(job, world).run({});
}

struct Errors {
  double largest = 0;
  double sum = 0;
  int64_t n = 0;
};

// Plans, trains three steps, and compares.
void check(const train::RecipeSource& source, int ranks, Errors& errors) {
  std::vector<Seen> seen(static_cast<size_t>(ranks));
  test::run_mesh(ranks,
                 [&](comm::World& world) { seen[static_cast<size_t>(world.rank())] = train_and_watch(source, world); });
  config::Report report;
  auto job = train::prepare_from_config(source, ranks, report);
  REQUIRE_MESSAGE(report.empty(), report.text());
  train::JobPlan planned = train::plan_job(job);
  for (const train::KindPlan& kind : planned.kinds) {
    int counted = 0;
    for (int r = 0; r < ranks; ++r) {
      if (!kind.ranks.has(job.setup->mesh_context, r)) continue;
      ++counted;
      const Seen& real = seen[static_cast<size_t>(r)];
      REQUIRE(real.peaks.size() == 3);
      for (size_t step = 0; step < 3; ++step) {
        int64_t said = (step == 0 ? kind.plan.first : kind.plan.steady).peak_total;
        double error = static_cast<double>(said) / static_cast<double>(real.peaks[step]) - 1;
        CHECK(said >= real.peaks[step]);
        CHECK(error <= 0.02);
        errors.largest = std::max(errors.largest, error);
        errors.sum += error;
        ++errors.n;
      }
      if (!job.config().validation_datasets.empty()) CHECK(kind.plan.evaluation.peak_total == real.validation_peak);
      // From one signal to the next: a whole step.
      CHECK(kind.plan.traffic == real.traffic[1]);
      CHECK(kind.plan.traffic == real.traffic[2]);
    }
    CHECK(counted == kind.ranks.count);
  }
}

std::string three_steps(const Folder& folder) {
  return "--step_scheduler.max_steps 3 --step_scheduler.val_every_steps 100 --checkpoint.enabled false"
         " --checkpoint.checkpoint_dir " +
         folder.file("run");
}

void report(const Errors& errors) {
  MESSAGE(errors.n << " peaks; planned over real: largest " << 100 * errors.largest << " %, mean "
                   << 100 * errors.sum / static_cast<double>(errors.n) << " %");
}

}  // namespace

TEST_CASE("what is planned for every recipe is what its training allocates and sends") {
  log::configure(log::Level::kOff);
  Folder folder;
  make_pretrained(folder);
  Errors errors;
  for (const std::string& name : all_recipes()) {
    for (int ranks : {1, 2, 3}) {
      CAPTURE(name);
      CAPTURE(ranks);
      check(shrunk(name, folder, three_steps(folder)), ranks, errors);
    }
  }
  report(errors);
}

TEST_CASE("the same holds for what a distributed section can ask for, and for packed data") {
  log::configure(log::Level::kOff);
  Folder folder;
  Errors errors;
  for (const char* choice :
       {"--distributed.dp_replicate_size 2", "--distributed.activation_checkpointing true",
        "--distributed.reshard_after_forward true --distributed.defer_fsdp_grad_sync false",
        "--distributed.strategy megatron_fsdp --distributed.zero_dp_strategy 3",
        "--distributed.strategy megatron_fsdp --distributed.zero_dp_strategy 1",
        "--distributed.strategy ddp --model.torch_dtype float32", "--mfu.peak_tflops 1",
        "--dataset {'_target_':'mock_packed','num_blocks':400,'block_size':40,'vocab_size':1000}"}) {
    CAPTURE(choice);
    check(shrunk("mock/smoke.yaml", folder, three_steps(folder) + " " + choice), 4, errors);
  }
  report(errors);
}
