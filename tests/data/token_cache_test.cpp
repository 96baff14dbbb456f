// The token cache: one tokenization for all, and no harm from whatever is in its folder.
#include "data/token_cache.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "core/error.h"
#include "data/text_dataset.h"
#include "support.h"

using namespace automodel;
using namespace automodel::data;

namespace {

// Bytes, moved by `shift`, and a count of the texts encoded. Ids beyond 65535 with a large shift.
class Counting : public Tokenizer {
 public:
  explicit Counting(int32_t shift = 0, std::string file = "one") : shift_(shift), file_(std::move(file)) {
    name_ = "counting";
  }
  std::vector<int32_t> encode(std::string_view text, bool) const override {
    if (text.size() > 1) {
      ++encoded;
      if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    std::vector<int32_t> ids;
    for (unsigned char c : text) ids.push_back(c + shift_);
    return ids;
  }
  std::string decode(std::span<const int32_t>, bool) const override { return ""; }
  int64_t vocab_size() const override { return 256 + shift_; }
  std::optional<int32_t> id_of(std::string_view) const override { return std::nullopt; }
  std::vector<TokenizerFile> files() const override { return {{"tokenizer.json", file_}}; }

  mutable std::atomic<int> encoded = 0;
  bool slow = false;

 private:
  int32_t shift_;
  std::string file_;
};

struct Fixture {
  TempFolder dir;
  TokenCache cache{dir.path("cache/tokens"), 0};
  std::vector<std::string> files;

  Fixture() {
    add("a.txt", "the first text");
    add("b.txt", "and another");
  }
  void add(const std::string& name, const std::string& text) { files.push_back(dir.write(name, text)); }
  std::vector<int32_t> ids(const TokenizedText& text) const { return text.tokens.part(0, text.tokens.size()); }
  std::vector<fs::path> entries() const {
    std::vector<fs::path> out;
    if (fs::exists(cache.folder))
      for (const auto& entry : fs::directory_iterator(cache.folder)) out.push_back(entry.path());
    return out;
  }
};

std::vector<int32_t> expected(int32_t shift = 0) {
  std::vector<int32_t> ids;
  for (unsigned char c : std::string("the first textand another")) ids.push_back(c + shift);
  return ids;
}

}  // namespace

TEST_CASE("a text is tokenized once and read from the cache afterwards, in two or four bytes a token") {
  for (int32_t shift : {0, 65279, 65280, 100000}) {
    CAPTURE(shift);
    Fixture f;
    Counting tokenizer(shift);
    for (int run = 0; run < 3; ++run) {
      TokenizedText text = tokenize(f.files, tokenizer, f.cache);
      CHECK(text.tokens.mapped());
      CHECK(f.ids(text) == expected(shift));
      CHECK(text.tokens.largest() == 'x' + shift);
      auto all = expected(shift);
      CHECK(text.tokens.part(4, 5) == std::vector<int32_t>(all.begin() + 4, all.begin() + 9));
      CHECK(text.note.starts_with("tokens kept in "));
    }
    CHECK(tokenizer.encoded == 2);  // two files
    REQUIRE(f.entries().size() == 1);
    CHECK(fs::file_size(f.entries()[0]) == 64 + expected().size() * ('x' + shift < 65536 ? 2 : 4));
  }
}

TEST_CASE("other texts, another order, other tokenizer files and another framing have entries of their own") {
  Fixture f;
  auto tokens = [&](const Tokenizer& tokenizer) { return f.ids(tokenize(f.files, tokenizer, f.cache)); };
  tokens(Counting());
  CHECK(f.entries().size() == 1);
  tokens(Counting(0, "two"));
  CHECK(f.entries().size() == 2);
  CHECK(tokens(Counting(1)) == expected(1));
  CHECK(f.entries().size() == 3);
  std::swap(f.files[0], f.files[1]);
  CHECK(tokens(Counting()) != expected());
  CHECK(f.entries().size() == 4);
  std::swap(f.files[0], f.files[1]);
  write_file_atomically(f.files[1], "and one more");
  CHECK(tokens(Counting()) != expected());
  CHECK(f.entries().size() == 5);
  // The same bytes, cut into files elsewhere.
  write_file_atomically(f.files[0], "the first texta");
  write_file_atomically(f.files[1], "nd another");
  CHECK(tokens(Counting()) == expected());
  CHECK(f.entries().size() == 6);
}

TEST_CASE("a byte tokenizer with other special tokens has an entry of its own") {
  Fixture f;
  for (bool bos : {false, true}) {
    auto tokenizer = make_byte_tokenizer({.bos_token = "<s>", .add_bos_token = bos});
    CHECK(tokenize(f.files, *tokenizer, f.cache).tokens.size() == static_cast<int64_t>(expected().size()) + 2 * bos);
  }
  CHECK(f.entries().size() == 2);
}

TEST_CASE("a truncated, longer or changed entry is made anew") {
  Fixture f;
  Counting tokenizer;
  tokenize(f.files, tokenizer, f.cache);
  fs::path entry = f.entries().at(0);
  std::string good = read_file(entry);
  std::vector<std::string> damaged{"", "AMTOKENS", good + "x", std::string(good.size(), '\0')};
  for (size_t n : {1u, 63u, 64u, 65u}) damaged.push_back(good.substr(0, n));
  damaged.push_back(good.substr(0, good.size() - 1));
  for (size_t i = 0; i < good.size(); ++i) {
    damaged.push_back(good);
    damaged.back()[i] = static_cast<char>(damaged.back()[i] ^ 0x20);
  }
  for (const std::string& bad : damaged) {
    int before = tokenizer.encoded;
    f.dir.write("cache/tokens/" + entry.filename().string(), bad);
    TokenizedText text = tokenize(f.files, tokenizer, f.cache);
    CHECK(f.ids(text) == expected());
    CHECK(tokenizer.encoded == before + 2);
    CHECK(read_file(entry) == good);
  }
}

TEST_CASE("a folder that cannot be made or written keeps nothing and fails nothing") {
  Fixture f;
  Counting tokenizer;
  for (const fs::path& folder : {fs::path(f.files[0]) / "tokens", fs::path("/proc/tokens"), fs::path("/dev/null")}) {
    CAPTURE(folder.string());
    TokenizedText text = tokenize(f.files, tokenizer, {folder, 0});
    CHECK(f.ids(text) == expected());
    CHECK(!text.tokens.mapped());
    CHECK(text.note.starts_with("tokens not kept: "));
  }
}

TEST_CASE("a disk that is full keeps nothing, leaves nothing behind and fails nothing") {
  Fixture f;
  Counting tokenizer;
  struct rlimit before {};
  getrlimit(RLIMIT_FSIZE, &before);
  auto old = std::signal(SIGXFSZ, SIG_IGN);
  for (rlim_t room : {0u, 64u, 70u}) {
    struct rlimit small = before;
    small.rlim_cur = room;
    setrlimit(RLIMIT_FSIZE, &small);
    TokenizedText text = tokenize(f.files, tokenizer, f.cache);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(f.ids(text) == expected());
    CHECK(!text.tokens.mapped());
    CHECK(text.note.starts_with("tokens not kept: "));
    CHECK(f.entries().empty());
  }
  std::signal(SIGXFSZ, old);
  CHECK(tokenize(f.files, tokenizer, f.cache).tokens.mapped());
}

TEST_CASE("processes that need a text at the same time wait for the first, also for one that dies") {
  Fixture f;
  // The child holds the entry's lock and is killed.
  Counting tokenizer;
  tokenize(f.files, tokenizer, f.cache);
  fs::path entry = f.entries().at(0);
  fs::remove(entry);
  int before = tokenizer.encoded;
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    pid_t child = fork();
    if (child == 0) {
      Counting own;
      own.slow = true;
      bool right = f.ids(tokenize(f.files, own, f.cache)) == expected();
      _exit(right ? own.encoded.load() : 99);
    }
    children.push_back(child);
  }
  int encoded = 0;
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    REQUIRE(WIFEXITED(status));
    encoded += WEXITSTATUS(status);
  }
  CHECK(encoded == 2);  // both files, by one of them
  CHECK(f.entries() == std::vector<fs::path>{entry});

  fs::remove(entry);
  pid_t killed = fork();
  if (killed == 0) {
    class Slow : public Counting {
      std::vector<int32_t> encode(std::string_view text, bool special) const override {
        if (text.size() > 1) sleep(60);
        return Counting::encode(text, special);
      }
    } slow;
    tokenize(f.files, slow, f.cache);
    _exit(0);
  }
  fs::path lock = fs::path(entry).replace_extension(".lock");
  while (!fs::exists(lock)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::thread other([&] { CHECK(f.ids(tokenize(f.files, tokenizer, f.cache)) == expected()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  CHECK(!fs::exists(entry));
  kill(killed, SIGKILL);
  other.join();
  waitpid(killed, nullptr, 0);
  CHECK(tokenizer.encoded == before + 2);
  CHECK(f.entries() == std::vector<fs::path>{entry});
}

TEST_CASE("small texts are not kept, and both splits of a text share an entry") {
  Fixture f;
  Counting tokenizer;
  TokenCache large{f.cache.folder, 1000};
  CHECK(tokenize(f.files, tokenizer, large).note.empty());
  CHECK(f.entries().empty());

  f.add("c.txt", std::string(300 << 10, 'z'));
  TextConfig config;
  config.path = {f.files[2]};
  config.seq_len = 16;
  config.validation_fraction = 0.25;
  config.token_cache = f.cache.folder.string();
  int before = tokenizer.encoded;
  auto train = make_text_dataset(config, tokenizer);
  config.split = Split::kValidation;
  auto validation = make_text_dataset(config, tokenizer);
  CHECK(tokenizer.encoded == before + 1);
  CHECK(train->size() == (225 * 1024 - 1) / 16);
  CHECK(validation->size() == (75 * 1024 - 1) / 16);
  CHECK(validation->at(0).input_ids == std::vector<int32_t>(16, 'z'));
  CHECK(train->summary().find("tokens kept in") != std::string::npos);
  config.token_cache.reset();
  CHECK(make_text_dataset(config, tokenizer)->summary().find("tokens kept") == std::string::npos);
}

TEST_CASE("the user's cache is where the desktop's rules put it") {
  auto folder = [](const char* cache_home, const char* home) {
    if (cache_home != nullptr) setenv("XDG_CACHE_HOME", cache_home, 1);
    if (cache_home == nullptr) unsetenv("XDG_CACHE_HOME");
    if (home != nullptr) setenv("HOME", home, 1);
    if (home == nullptr) unsetenv("HOME");
    return default_token_cache().folder.string();
  };
  std::string home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  CHECK(folder("/c", "/h") == "/c/automodel/tokens");
  CHECK(folder(nullptr, "/h") == "/h/.cache/automodel/tokens");
  CHECK(folder("relative", "/h") == "/h/.cache/automodel/tokens");
  CHECK(folder(nullptr, nullptr) == "");
  if (!home.empty()) setenv("HOME", home.c_str(), 1);
}
