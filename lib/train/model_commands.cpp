// `automodel generate`, `automodel eval` and the hidden `automodel bench`.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "launch/launch.h"
#include "train/auto_model.h"
#include "train/commands.h"
#include "train/device.h"
#include "train/evaluation.h"
#include "train/generator.h"
#include "train/ranks.h"
#include "train/weights.h"

namespace automodel::train {
namespace {

using nlohmann::json;

// The ids that end a text: generation_config.json's, else config.json's, else the tokenizer's.
std::vector<int32_t> stop_ids(const ModelSource& source, const data::Tokenizer* tokenizer) {
  std::vector<std::string> texts;
  if (auto it = source.companions.find("generation_config.json"); it != source.companions.end())
    texts.push_back(it->second);
  texts.push_back(source.config_json);
  for (const std::string& text : texts) {
    json config = json::parse(text, nullptr, false);
    if (!config.is_object() || !config.contains("eos_token_id")) continue;
    const json& eos = config["eos_token_id"];
    if (eos.is_number_integer()) return {eos.get<int32_t>()};
    if (eos.is_array()) {
      std::vector<int32_t> ids;
      for (const json& id : eos)
        if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
      return ids;
    }
  }
  if (tokenizer != nullptr && tokenizer->settings().eos_id) return {*tokenizer->settings().eos_id};
  return {};
}

std::vector<int32_t> prompt_of(const GenerateOptions& options, const data::Tokenizer* tokenizer, int64_t vocab) {
  std::vector<int32_t> ids = options.prompt_ids;
  if (options.prompt) {
    AM_CHECK(tokenizer != nullptr, Fault::kUsage,
             "{}: there is no tokenizer.json, so --prompt cannot be encoded; give --prompt-ids", options.model);
    ids = encode_prompt(*tokenizer, *options.prompt);
    if (ids.empty() && tokenizer->settings().bos_id) ids.push_back(*tokenizer->settings().bos_id);
  }
  AM_CHECK(!ids.empty(), Fault::kUsage, "the prompt is empty; give some text with --prompt, or ids with --prompt-ids");
  for (int32_t id : ids)
    AM_CHECK(id >= 0 && id < vocab, Fault::kUsage, "--prompt-ids: {} is no id of the model, whose vocab_size is {}", id,
             vocab);
  return ids;
}

// How fast tokens come.
class Stopwatch {
 public:
  void token() {
    last_ = Clock::now();
    if (count_++ == 0) first_ = last_;
  }
  std::string report(size_t prompt) const {
    auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
    std::string text = fmt::format("{} tokens of prompt, first new token after {:.3f} s", prompt,
                                   count_ > 0 ? seconds(first_ - start_) : 0.0);
    return count_ < 2 ? text
                      : fmt::format("{} | {} new tokens, {:.1f} tokens/s", text, count_,
                                    static_cast<double>(count_ - 1) / seconds(last_ - first_));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now(), first_, last_;
  int64_t count_ = 0;
};

}  // namespace

int run_generate(const GenerateOptions& options) {
  ModelSource source = open_folder(options.model);
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (fs::exists(source.weights->folder() / "tokenizer.json"))
    tokenizer = data::load_tokenizer(source.weights->folder().string());
  std::vector<int32_t> prompt = prompt_of(options, tokenizer.get(), source.model->info().vocab_size);
  SamplingOptions sampling;
  sampling.max_new_tokens = options.max_new_tokens;
  sampling.temperature = options.temperature;
  sampling.top_k = options.top_k;
  sampling.top_p = options.top_p;
  sampling.seed = options.seed;
  sampling.context = source.model->info().max_positions;
  sampling.stop_ids = stop_ids(source, tokenizer.get());

  comm::World world = comm::World::single();
  // One rank, fp32: what a reader of the ids can reproduce anywhere.
  source.storage = DType::kF32;
  engine::EngineOptions evaluation;
  evaluation.trains = false;
  ResolvedSetup setup;
  setup.device = options.device;
  PlacedModel model(std::move(source), world, setup, evaluation);
  model.fill();
  bool stream = options.format == Format::kText;
  std::optional<data::StreamDecoder> decoder;
  if (tokenizer) decoder.emplace(*tokenizer, true);
  auto show = [](const std::string& text) {
    std::fputs(text.c_str(), stdout);
    std::fflush(stdout);
  };
  std::string lead;
  if (decoder)
    for (int32_t id : prompt) lead += decoder->push(id);
  if (stream) show(lead);
  std::string text;
  Stopwatch watch;
  std::vector<int32_t> ids = generate(model.engine(), prompt, sampling, [&](int32_t id) {
    watch.token();
    std::string piece = decoder ? decoder->push(id) : fmt::format("{} ", id);
    text += piece;
    if (stream) show(piece);
  });
  if (decoder) text += decoder->finish();
  if (stream) {
    show("\n");
    log::info("{}", watch.report(prompt.size()));
  } else {
    json out{{"prompt_ids", prompt}, {"ids", ids}, {"text", decoder ? text : ""}};
    show(out.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
  }
  return 0;
}

int run_eval(const EvalOptions& options) {
  Job job = prepare(options.recipe, 1, false);
  AM_CHECK(!job.validation.empty(), Fault::kConfig, "{}: there is no validation_dataset to evaluate; add one",
           options.recipe.path);
  return run_as_rank(job.config().dist_env.timeout_minutes, [&](comm::World& world) {
    RankDevice device(job.config().device, world, job.config().dist_env.device_transport);
    engine::EngineOptions engine_settings = engine_options(job);
    engine_settings.trains = false;
    engine::Engine engine(*job.source.model, device.ranks(), device.allocator(), engine_settings);
    log::info("{}", fill_for_evaluation(engine, job));
    json out = json::object();
    for (const auto& [name, dataset] : job.validation) {
      auto [loss, labels] = evaluate(engine, job, device.ranks(), dataset);
      out[name] = {{"loss", loss}, {"label_tokens", labels}, {"perplexity", std::exp(loss)}};
      if (options.format == Format::kText)
        fmt::print("{}: loss {:.6f} | label tokens {} | perplexity {:.4f}\n", name, loss, labels, std::exp(loss));
    }
    if (options.format == Format::kJson) fmt::print("{}\n", json{{"validation", out}}.dump());
    return 0;
  });
}

int run_bench(const BenchOptions& options) {
  RanksWanted wanted;
  if (options.nproc_per_node) wanted.per_node = *options.nproc_per_node;
  wanted.command_line = options.command_line;
  if (auto command = command_for(wanted)) return launch::launch(*command);
  return run_as_rank(10, [&](comm::World& world) {
    BenchResult result = bench(options.shape, world);
    if (!world.is_main()) return 0;
    fmt::print("{}\n", options.format == Format::kJson ? to_json(options.shape, result, world.size())
                                                       : to_text(options.shape, result, world.size()));
    return 0;
  });
}

}  // namespace automodel::train
