// The entry point of libFuzzer: any bytes are a recipe and a command line. Only automodel::Error may come out of them.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "config/sample.h"
#include "core/error.h"

namespace {

namespace config = automodel::config;

// Reads the text as YAML and as JSON, and what can be read must survive a dump.
void load(const std::string& text) {
  const config::Environment environment = sample::variables({{"A", "1"}, {"B", "text"}});
  try {
    const config::Node node = config::parse_yaml(text, "fuzz.yaml", environment);
    config::Report report;
    const auto recipe = config::read<sample::Recipe>(node, report);
    (void)report.text();
    (void)config::dump(recipe, &node);
    if (!(config::parse_yaml(config::dump(node, {.redact = false}), "again.yaml", environment) == node)) std::abort();
  } catch (const automodel::Error&) {
  }
  try {
    config::Report report;
    config::read<sample::Recipe>(config::parse_json(text, "fuzz.json"), report);
  } catch (const automodel::Error&) {
  }
}

// The first word of the text is a key, the rest its value.
void override_with(const std::string& text) {
  config::Report report;
  config::Node root = config::Node::map();
  const config::Environment environment = sample::variables({{"A", "1"}});
  config::apply(root,
                config::parse_overrides({"--optimizer", text, "--" + text.substr(0, 20), text}, report, environment));
  config::read<sample::Recipe>(root, report);
  (void)report.json();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  load(text);
  override_with(text);
  return 0;
}
