#include "data/tokenizer.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/rng.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;
using nlohmann::json;

namespace {

using Ids = std::vector<int32_t>;

// A word-less BPE tokenizer of a few letters, as the starting point of files that differ in one place.
json tiny() {
  return {{"version", "1.0"},
          {"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", {{"type", "Fuse"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"abc", 4}, {"<s>", 5}, {"</s>", 6}}},
            {"merges", json::array({json::array({"a", "b"}), json::array({"ab", "c"})})}}}};
}

struct TinyFolder : TempFolder {
  explicit TinyFolder(const json& tokenizer) { write("tokenizer.json", tokenizer.dump()); }
  std::unique_ptr<Tokenizer> load(const TokenizerOverrides& overrides = {}) const {
    return load_tokenizer(path(), overrides);
  }
};

// A random text of well-formed UTF-8 from all planes.
std::string random_text(uint64_t seed) {
  Random random(seed, "text");
  std::string text;
  auto length = random.below(60, 0);
  for (uint64_t i = 1; i <= length; ++i) {
    uint32_t kind = random.bits(4 * i) % 5;
    auto pick = [&](uint32_t low, uint32_t high) { return low + random.bits(4 * i + 1) % (high - low); };
    uint32_t c = kind <= 1   ? pick(1, 0x80)
                 : kind == 2 ? pick(0x80, 0x800)
                 : kind == 3 ? pick(0x800, 0xD800)
                             : pick(0x10000, 0x110000);
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
               static_cast<char>(0x80 | (c & 63))};
    } else {
      text += {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
               static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
    }
  }
  return text;
}

}  // namespace

TEST_CASE("the byte tokenizer maps bytes to themselves") {
  auto tokenizer = make_byte_tokenizer();
  CHECK(tokenizer->vocab_size() == 256);
  CHECK(tokenizer->encode("aé\xFF", true) == Ids{97, 0xC3, 0xA9, 0xFF});
  CHECK(tokenizer->decode(Ids{97, 0xC3, 0xA9, 0xFF}, false) == "aé\xEF\xBF\xBD");
  CHECK(!tokenizer->settings().eos_id);
}

TEST_CASE("the byte tokenizer can have a begin and an end token") {
  auto tokenizer = make_byte_tokenizer({"<s>", "</s>", true, true});
  CHECK(tokenizer->vocab_size() == 258);
  CHECK(tokenizer->encode("hi", true) == Ids{256, 104, 105, 257});
  CHECK(tokenizer->encode("hi", false) == Ids{104, 105});
  CHECK(tokenizer->encode("a</s>b", false) == Ids{97, 257, 98});
  CHECK(tokenizer->decode(Ids{256, 104, 257}, true) == "h");
  CHECK(tokenizer->decode(Ids{256, 104, 257}, false) == "<s>h</s>");
  CHECK(tokenizer->settings().bos_id == 256);
  CHECK(tokenizer->settings().eos_id == 257);
}

TEST_CASE("the files of the byte tokenizer are a tokenizer that encodes the same way") {
  for (bool special : {false, true}) {
    ByteTokenizerOptions options;
    if (special) options = {"<s>", "</s>", true, true};
    auto bytes = make_byte_tokenizer(options);
    TempFolder folder;
    for (const auto& file : bytes->files()) folder.write(file.name, file.content);
    auto read = load_tokenizer(folder.path());
    CHECK(read->vocab_size() == bytes->vocab_size());
    CHECK(read->settings().bos_id == bytes->settings().bos_id);
    CHECK(read->settings().eos_id == bytes->settings().eos_id);
    for (uint64_t seed = 0; seed < 40; ++seed) {
      std::string text = random_text(seed) + (seed % 3 == 0 ? "</s>x" : "");
      for (bool add : {false, true}) {
        CHECK(read->encode(text, add) == bytes->encode(text, add));
        CHECK(read->decode(bytes->encode(text, add), add) == bytes->decode(bytes->encode(text, add), add));
      }
    }
  }
}

TEST_CASE("a byte-level tokenizer gives back every text") {
  auto golden = load_tokenizer(AUTOMODEL_SOURCE_DIR "/tests/data/golden/splits");
  auto bytes = make_byte_tokenizer();
  for (uint64_t seed = 0; seed < 200; ++seed) {
    std::string text = random_text(seed);
    CHECK(golden->decode(golden->encode(text, false), false) == text);
    CHECK(bytes->decode(bytes->encode(text, false), false) == text);
  }
}

TEST_CASE("streamed decoding returns complete characters only") {
  auto tokenizer = make_byte_tokenizer();
  StreamDecoder stream(*tokenizer, true);
  CHECK(stream.push('a') == "a");
  CHECK(stream.push(0xE6) == "");
  CHECK(stream.push(0xB0) == "");
  CHECK(stream.push(0xB4) == "水");
  CHECK(stream.push('b') == "b");
  CHECK(stream.push(0xE6) == "");
  CHECK(stream.finish() == "\xEF\xBF\xBD");
  CHECK(stream.push('c') == "c");
}

TEST_CASE("streamed decoding of any ids equals decoding them at once") {
  auto bytes = make_byte_tokenizer();
  auto byte_level = load_tokenizer(AUTOMODEL_SOURCE_DIR "/tests/data/golden/byte_level");
  for (const Tokenizer* tokenizer : {bytes.get(), byte_level.get()}) {
    for (uint64_t seed = 0; seed < 100; ++seed) {
      Random random(seed, "ids");
      Ids ids;
      for (uint64_t i = 0; i < 30; ++i)
        ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(tokenizer->vocab_size()), i)));
      StreamDecoder stream(*tokenizer, false);
      std::string streamed;
      for (int32_t id : ids) streamed += stream.push(id);
      CHECK(streamed + stream.finish() == tokenizer->decode(ids, false));
    }
  }
}

TEST_CASE("ill-formed byte tokens do not spoil the characters streamed before them") {
  auto tokenizer = load_tokenizer(AUTOMODEL_SOURCE_DIR "/tests/data/golden/sentencepiece");
  auto byte = [&](const char* token) { return *tokenizer->id_of(token); };
  StreamDecoder stream(*tokenizer, true);
  CHECK(stream.push(byte("<0xC3>")) == "");
  CHECK(stream.push(byte("<0xA9>")) == "é");
  CHECK(stream.push(byte("<0xFF>")) == "");
  CHECK(stream.push(*tokenizer->id_of("m")) == "\xEF\xBF\xBDm");
  CHECK(stream.finish() == "");
}

TEST_CASE("merges are applied by rank, and unknown characters vanish without an unknown token") {
  TinyFolder folder(tiny());
  auto tokenizer = folder.load();
  CHECK(tokenizer->encode("abcabxc", false) == Ids{4, 4});
  CHECK(tokenizer->decode(Ids{4, 3, 99, -1}, false) == "abcab");
  CHECK(tokenizer->id_of("ab") == 3);
  CHECK(!tokenizer->id_of("zz"));
}

TEST_CASE("unknown characters become the unknown token, fused when the model says so") {
  json file = tiny();
  file["model"]["unk_token"] = "<s>";
  CHECK(TinyFolder(file).load()->encode("xya", false) == Ids{5, 5, 0});
  file["model"]["fuse_unk"] = true;
  CHECK(TinyFolder(file).load()->encode("xya", false) == Ids{5, 0});
}

TEST_CASE("merges may be written in the old form of one text each") {
  json file = tiny();
  file["model"]["merges"] = {"#version: 0.2", "a b", "ab c"};
  CHECK(TinyFolder(file).load()->encode("abc", false) == Ids{4});
}

TEST_CASE("tokenizer_config.json names the special tokens, as text or as objects") {
  TinyFolder folder(tiny());
  folder.write("tokenizer_config.json",
               R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "add_bos_token": true,
                   "pad_token": null, "chat_template": [{"name": "rag", "template": "x"},
                                                        {"name": "default", "template": "hello"}]})");
  folder.write("special_tokens_map.json", R"({"pad_token": "c"})");
  auto tokenizer = folder.load();
  CHECK(tokenizer->settings().bos_id == 5);
  CHECK(tokenizer->settings().eos_id == 6);
  CHECK(tokenizer->settings().pad_id == 2);
  CHECK(tokenizer->settings().chat_template == "hello");
  CHECK(tokenizer->encode("ab", true) == Ids{5, 3});
  CHECK(tokenizer->encode("ab", false) == Ids{3});
  CHECK(tokenizer->files().size() == 3);
  folder.write("tokenizer_config.json", R"({"chat_template": [{"name": 3, "template": []}], "bos_token": 7})");
  CHECK(folder.load()->settings().chat_template.empty());
  folder.write("chat_template.jinja", "from the file");
  CHECK(folder.load()->settings().chat_template == "from the file");
}

TEST_CASE("a recipe can turn the tokens around a text on and off") {
  TinyFolder folder(tiny());
  folder.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true})");
  CHECK(folder.load({.add_bos_token = false, .add_eos_token = true})->encode("a", true) == Ids{0, 6});
  CHECK(folder.load({.bos_token = "b"})->encode("a", true) == Ids{1, 0});
  CHECK(contains(error_of(Fault::kData, [&] { folder.load({.eos_token = "zz"}); }), "'zz'"));
}

TEST_CASE("text that is not UTF-8 is refused with the place") {
  TinyFolder folder(tiny());
  auto tokenizer = folder.load();
  auto message = error_of(Fault::kData, [&] { tokenizer->encode("ab\xC3(c", false); });
  CHECK(contains(message, "byte 2 (0xc3)"));
  CHECK(contains(message, "byte tokenizer"));
}

TEST_CASE("what a tokenizer file asks for and is not supported is refused by name") {
  auto message = [](const char* section, json value) {
    json file = tiny();
    file[section] = std::move(value);
    TinyFolder folder(file);
    return error_of(Fault::kData, [&] { folder.load(); });
  };
  CHECK(contains(message("normalizer", {{"type", "Precompiled"}}), "normalizer type 'Precompiled'"));
  CHECK(contains(message("normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Nmt"}}}}}),
                 "normalizer.normalizers[0]: the normalizer type 'Nmt'"));
  CHECK(contains(message("pre_tokenizer", {{"type", "UnicodeScripts"}}), "'UnicodeScripts'"));
  CHECK(contains(message("decoder", {{"type", "CTC"}}), "'CTC'"));
  CHECK(contains(message("post_processor", {{"type", "Odd"}}), "'Odd'"));
  json model = tiny()["model"];
  model["type"] = "Unigram";
  CHECK(contains(message("model", model), "'Unigram'"));
  model = tiny()["model"];
  model["dropout"] = 0.1;
  CHECK(contains(message("model", model), "dropout 0.1"));
  model = tiny()["model"];
  model["continuing_subword_prefix"] = "##";
  CHECK(contains(message("model", model), "continuing_subword_prefix '##'"));
  json split = {{"type", "Split"}, {"pattern", {{"Regex", "[a-z&&[^b]]"}}}, {"behavior", "Isolated"}};
  CHECK(contains(message("pre_tokenizer", split), "character class"));
  split["pattern"]["Regex"] = "(a";
  CHECK(contains(message("pre_tokenizer", split), "does not compile"));
}

TEST_CASE("a damaged tokenizer file is refused, naming the file and the damage") {
  auto message = [](const std::function<void(json&)>& damage) {
    json file = tiny();
    damage(file);
    TinyFolder folder(file);
    auto text = error_of(Fault::kData, [&] { folder.load(); });
    CHECK(contains(text, folder.path("tokenizer.json")));
    return text;
  };
  CHECK(contains(message([](json& f) { f["model"]["merges"][0] = json::array({"a", "z"}); }), "merges[0]"));
  CHECK(contains(message([](json& f) { f["model"]["merges"][1] = json::array({"a"}); }), "merges[1] has 1 pieces"));
  CHECK(contains(message([](json& f) { f["model"]["vocab"]["a"] = "x"; }), "model.vocab holds a value of type string"));
  CHECK(contains(message([](json& f) { f["model"]["vocab"]["a"] = 1; }), "the id 1"));
  CHECK(contains(message([](json& f) { f["model"]["vocab"]["a"] = 2000000000; }), "an id of 2000000000"));
  CHECK(contains(message([](json& f) { f["model"]["vocab"] = json::object(); }), "missing or empty"));
  CHECK(contains(message([](json& f) { f.erase("model"); }), "'model' is missing"));
  CHECK(contains(message([](json& f) {
                   f["added_tokens"] = {{{"id", 1}, {"content", "<x>"}}};
                 }),
                 "'b' in the vocabulary"));
  CHECK(contains(message([](json& f) { f["added_tokens"] = {{{"id", "1"}, {"content", "<x>"}}}; }), "an integer"));
  CHECK(contains(message([](json& f) { f["decoder"] = 3; }), "must be an object"));

  TempFolder folder;
  std::string whole = tiny().dump();
  for (size_t cut : {size_t{0}, size_t{1}, whole.size() / 3, whole.size() / 2, whole.size() - 1}) {
    folder.write("tokenizer.json", whole.substr(0, cut));
    auto text = error_of(Fault::kData, [&] { load_tokenizer(folder.path()); });
    CHECK(contains(text, "not valid JSON"));
  }
  folder.write("tokenizer.json", "[1, 2]");
  CHECK(contains(error_of(Fault::kData, [&] { load_tokenizer(folder.path()); }), "must hold an object"));
  folder.write("tokenizer.json", whole);
  folder.write("tokenizer_config.json", "{");
  CHECK(contains(error_of(Fault::kData, [&] { load_tokenizer(folder.path()); }), "tokenizer_config.json: not valid"));
}

TEST_CASE("a tokenizer file with any byte changed loads or is refused, and nothing else happens") {
  for (const char* name : {"byte_level", "added_tokens", "metaspace"}) {
    std::string whole = read_file(fs::path(AUTOMODEL_SOURCE_DIR "/tests/data/golden") / name / "tokenizer.json");
    TempFolder folder;
    Random random(5, name);
    for (uint64_t i = 0; i < 150; ++i) {
      std::string damaged = whole;
      // Most of a file is vocabulary; half of the changes go to the part before it.
      size_t end = i % 2 == 0 ? whole.size() : whole.find("\"vocab\"");
      damaged[random.below(end, 2 * i)] = "0\"{}[],:-x"[random.below(10, 2 * i + 1)];
      folder.write("tokenizer.json", damaged);
      try {
        auto tokenizer = load_tokenizer(folder.path());
        tokenizer->decode(tokenizer->encode("the mill 12 <s>", true), false);
      } catch (const Error& error) {
        CHECK(error.fault() == Fault::kData);
      }
    }
  }
}

TEST_CASE("a missing tokenizer is named") {
  CHECK(contains(error_of(Fault::kData, [] { load_tokenizer("meta-llama/Llama-3.2-1B"); }), "no such tokenizer"));
  TempFolder folder;
  CHECK(contains(error_of(Fault::kData, [&] { load_tokenizer(folder.path()); }), "no tokenizer.json"));
}

TEST_CASE("a tokenizer must fit the model's vocabulary") {
  auto tokenizer = make_byte_tokenizer({.eos_token = "</s>"});
  check_fits(*tokenizer, 257);
  auto message = error_of(Fault::kData, [&] { check_fits(*tokenizer, 256); });
  CHECK(contains(message, "up to 256"));
  CHECK(contains(message, "vocab_size is 256"));
}

TEST_CASE("several threads can share a tokenizer") {
  auto tokenizer = load_tokenizer(AUTOMODEL_SOURCE_DIR "/tests/data/golden/byte_level");
  std::vector<Ids> expected;
  for (uint64_t seed = 0; seed < 50; ++seed) expected.push_back(tokenizer->encode(random_text(seed), true));
  std::vector<std::vector<Ids>> got(4);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : got)
      threads.emplace_back([&] {
        for (uint64_t seed = 0; seed < 50; ++seed) mine.push_back(tokenizer->encode(random_text(seed), true));
      });
  }
  for (const auto& mine : got) CHECK(mine == expected);
}
