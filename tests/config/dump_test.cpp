// Dumps, listings and explanations.
#include <doctest/doctest.h>

#include "config/sample.h"
#include "core/error.h"

using namespace automodel::config;

namespace {

bool has(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  MESSAGE("not found: ", part, " in:\n", text);
  return false;
}

sample::Recipe read_clean(const Node& node) {
  Report report;
  auto recipe = read<sample::Recipe>(node, report);
  CHECK(report.text() == "");
  return recipe;
}

}  // namespace

TEST_CASE("parsing a dump gives the same struct, and dumping that the same text") {
  const Node node = parse_yaml(sample::kRecipe, "r.yaml");
  const sample::Recipe recipe = read_clean(node);
  const std::string text = dump(recipe, &node, {.redact = false});
  const Node again = parse_yaml(text, "dump.yaml");
  const sample::Recipe second = read_clean(again);
  CHECK(dump(second, &again, {.redact = false}) == text);
  CHECK(to_node(second) == to_node(recipe));
  CHECK(second.raw == recipe.raw);
  CHECK(second.wandb->handle == "me & myself: \"yes\"");
}

TEST_CASE("a dump of defaults reads back, and has every key") {
  sample::Recipe recipe;
  recipe.recipe = "none of your business";
  const std::string text = dump(recipe, nullptr, {.redact = false});
  CHECK(has(text, "  weight_decay: 0.0\n"));
  CHECK(has(text, "  _target_: torch.optim.Adam\n"));
  CHECK(has(text, "save_consolidated: final\n"));
  CHECK(to_node(read_clean(parse_yaml(text, "d.yaml"))) == to_node(recipe));
}

TEST_CASE("the dump of a tree reads back as the same tree") {
  const char* texts[] = {
      "a: [1, 2.0, true, null, none, x, \"none\", \"1\", \"true\", \"~\", \"\", \" \", \"a: b\", \"#\", \"'\"]\n",
      "a: [[1, [2]], [], {}, {b: {c: [ {d: 1}, [ {e: 2} ] ]}}]\n",
      "\"<<\": 1\n\"a b\": 2\n\"yes\": 3\n\"1\": 4\n\"\": 5\n",
      "- 1\n- - 2\n  - {a: 1}\n- {b: [x]}\n",
      "x: \"multi\\nline\\ttab \\x01 \\u00e9 back\\\\slash\"\n",
      "x: [1e-5, -.inf, .nan, 1e300, 0.1, -0.0, 9223372036854775807]\n",
      "plain\n",
      "[]\n",
      "x: \"0.99, 0.01\"\n",
      "d: [2024-01-02, \"1:30\", 1e5x, \"007\", \"0o7\", \"1_0\", \"*x\", \"&y\", \"!z\", \"-\", \"- a\", \"?\", "
      "\"@a\"]\n",
  };
  for (const char* text : texts) {
    CAPTURE(text);
    const Node node = parse_yaml(text, "t.yaml");
    CHECK(parse_yaml(dump(node), "d.yaml") == node);
  }
}

TEST_CASE("the target survives as it was written") {
  const Node node = parse_yaml("recipe: x\noptimizer: {_target_: AdamW, lr: 2}\n", "r.yaml");
  CHECK(has(dump(read_clean(node), &node), "_target_: AdamW\n"));
  const Node bare = parse_yaml("recipe: x\noptimizer: adamw\n", "r.yaml");
  const std::string text = dump(read_clean(bare), &bare);
  CHECK(has(text, "optimizer:\n  _target_: adamw\n  lr: 0.0001\n"));
  CHECK(has(dump(read_clean(bare)), "_target_: adamw\n"));  // kept by the struct itself
}

TEST_CASE("a section without alternatives shows its target only when it was written") {
  CHECK(dump(sample::Policy()).find("_target_") == std::string::npos);
  const Node node = parse_yaml("_target_: MixedPrecisionPolicy\n", "r.yaml");
  CHECK(has(dump(read_or_throw<sample::Policy>(node), &node), "_target_: MixedPrecisionPolicy\n"));
}

TEST_CASE("secrets are masked by key and by rule") {
  const Node node = parse_yaml(
      "recipe: x\noptimizer: adamw\nwandb: {api_key: abc, handle: me}\n"
      "model: {auth: [k1, k2], tokenizer: t, bos_token: \"<s>\", hf_token: z, author: a}\n",
      "r.yaml");
  const std::string text = dump(read_clean(node), &node);
  CHECK(has(text, "api_key: \"******\""));
  CHECK(has(text, "handle: \"******\""));
  CHECK(has(text, "auth: [\"******\", \"******\"]"));
  CHECK(has(text, "hf_token: \"******\""));
  CHECK(has(text, "tokenizer: t\n"));
  CHECK(has(text, "bos_token: \"<s>\""));
  CHECK(has(text, "author: a\n"));
  CHECK(has(dump(read_clean(node), &node, {.redact = false}), "api_key: abc\n"));
  CHECK(dump_json(to_node(read_clean(node), &node)).find("abc") == std::string::npos);
}

TEST_CASE("secret words match whole words of a key") {
  for (const char* key : {"password", "db_password", "HF_TOKEN", "token", "api_key", "apikey", "x-api-key", "secret",
                          "authorization", "use_auth", "auth_token"}) {
    CAPTURE(key);
    CHECK(names_secret(key));
  }
  for (const char* key : {"tokenizer", "tokens", "num_tokens", "author", "bos_token", "eos_token_id", "pad_token",
                          "api", "key", "monkey", "token_id"}) {
    CAPTURE(key);
    CHECK_FALSE(names_secret(key));
  }
}

TEST_CASE("values of the environment are dumped as their placeholder") {
  const Environment env = sample::variables({{"KEY", "hunter2"}, {"DIR", "/data"}});
  const Node node = parse_yaml(
      "recipe: ${DIR}/x\noptimizer: adamw\nwandb: {api_key: \"${KEY}\", handle: \"${KEY,plain}\", project: \"$DIR\"}\n"
      "model: {cache: \"${DIR}\"}\n",
      "r.yaml", env);
  const sample::Recipe recipe = read_clean(node);
  CHECK(recipe.recipe == "/data/x");
  const std::string text = dump(recipe, &node);
  CHECK(has(text, "recipe: \"${DIR}/x\"\n"));
  CHECK(has(text, "api_key: \"${KEY}\"\n"));
  CHECK(has(text, "project: \"$DIR\"\n"));
  CHECK(has(text, "cache: \"${DIR}\"\n"));
  CHECK(text.find("hunter2") == std::string::npos);
  CHECK(text.find("plain") == std::string::npos);
  CHECK(to_node(read_clean(parse_yaml(dump(recipe, &node, {.redact = false}), "d.yaml", env))) == to_node(recipe));
}

TEST_CASE("a listing says where each value was written") {
  Report report;
  Node node = parse_yaml("recipe: x\noptimizer:\n  _target_: adamw\n  lr: 1e-5\n", "r.yaml");
  apply(node, parse_overrides({"--optimizer.betas", "[0.5, 0.6]"}, report));
  const sample::Recipe recipe = read_clean(node);
  const std::string text = dump(recipe, &node, {.origins = true});
  CHECK(has(text, "  lr: 1.0e-05 "));
  CHECK(has(text, "# r.yaml:4:7\n"));
  CHECK(has(text, "# --optimizer.betas\n"));
  CHECK(to_node(read_clean(parse_yaml(text, "d.yaml"))) == to_node(recipe));
  std::map<std::string, std::pair<std::string, std::string>> found;
  for (const Setting& setting : settings(to_node(recipe, &node))) found[setting.key] = {setting.value, setting.origin};
  CHECK(found.at("optimizer.lr") == std::pair<std::string, std::string>("1.0e-05", "r.yaml:4:7"));
  CHECK(found.at("optimizer.betas") == std::pair<std::string, std::string>("[0.5, 0.6]", "--optimizer.betas"));
  CHECK(found.at("optimizer._target_") == std::pair<std::string, std::string>("adamw", "r.yaml:3:13"));
  CHECK(found.at("seed") == std::pair<std::string, std::string>("42", "default"));
}

TEST_CASE("explain tells type, default, range, meaning and targets") {
  const std::string lr = explain<sample::Recipe>("optimizer.lr");
  CHECK(
      has(lr, "optimizer.lr: a number above 0; default 0.001\n  Peak learning rate.\n  Of: torch.optim.Adam, adam\n"));
  CHECK(has(lr, "Of: torch.optim.AdamW, torch.optim.adamw.AdamW, adamw\n"));
  CHECK(has(explain<sample::Recipe>("optimizer.betas"), "a list of 2, each a number at least 0 and below 1"));
  CHECK(has(explain<sample::Recipe>("distributed.tp_size"), "Refused: tensor parallelism is not supported"));
  CHECK(has(explain<sample::Recipe>("distributed.prefetch"), "Accepted, without effect: gathers are always ahead"));
  CHECK(has(explain<sample::Recipe>("distributed.strategy"), "one of: fsdp2 | ddp | megatron_fsdp; default fsdp2"));
  CHECK(has(explain<sample::Recipe>("distributed.strategy"), "fsdp2: Shards everything."));
  CHECK(has(explain<sample::Recipe>("distributed.mp_policy.param_dtype"), "default bfloat16"));
  CHECK(has(explain<sample::Recipe>("param_group_overrides.0.lr_mult"), "a number at least 0; default 1.0"));
  CHECK(has(explain<sample::Recipe>("param_group_overrides.pattern"), "text; required"));
  CHECK(has(explain<sample::Recipe>("dataset_x.split"), "text; default train"));
  CHECK(has(explain<sample::Recipe>("ci"), "without effect"));
  CHECK(has(explain<sample::Recipe>("model.torch_dtype"), "Also called: dtype"));
}

TEST_CASE("explain of a section lists its keys, and an unknown key gets a hint") {
  const std::string all = explain<sample::Recipe>("");
  CHECK(has(all, "A recipe for tests."));
  CHECK(has(all, "step_scheduler"));
  CHECK(has(all, "(no effect: only the upstream tests read it)"));
  CHECK(has(explain<sample::Recipe>("distributed"), "How ranks share the work."));
  CHECK(has(explain<sample::Recipe>("distributed"), "mp_policy"));
  CHECK_THROWS_WITH_AS(explain<sample::Recipe>("optimizer.lrr"),
                       "there is no key 'optimizer.lrr'; did you mean 'optimizer.lr'?", automodel::Error);
  CHECK_THROWS_WITH_AS(explain<sample::Recipe>("optimzer.lrr"),
                       "there is no key 'optimzer.lrr'; did you mean 'optimizer.lr'?", automodel::Error);
  CHECK_THROWS_WITH_AS(explain<sample::Recipe>("distibuted.mp_polcy.param_dtyp"),
                       "there is no key 'distibuted.mp_polcy.param_dtyp'; did you mean "
                       "'distributed.mp_policy.param_dtype'?",
                       automodel::Error);
}
