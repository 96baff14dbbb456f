#include "data/token_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/error.h"

namespace automodel::data {
namespace {

static_assert(std::endian::native == std::endian::little, "the files hold little-endian numbers");

constexpr int kTokenizerRevision = 1;  // see TOKEN_CACHE.md, "Key"
constexpr uint32_t kFormatVersion = 1;
constexpr std::array<char, 8> kMagic{'A', 'M', 'T', 'O', 'K', 'E', 'N', 'S'};

struct Header {
  std::array<char, 8> magic = kMagic;
  uint32_t version = kFormatVersion;
  uint32_t width = 0;
  uint64_t count = 0;
  uint32_t largest = 0;
  uint32_t zero = 0;
  std::array<uint8_t, 16> key{};
  uint64_t tokens_hash = 0;
  uint64_t header_hash = 0;

  uint64_t own_hash() const { return XXH3_64bits(this, offsetof(Header, header_hash)); }
};
static_assert(sizeof(Header) == 64);

using Key = std::array<uint8_t, 16>;

class Hasher {
 public:
  Hasher() { XXH3_128bits_reset(state_.get()); }
  void add(const void* data, size_t bytes) {
    uint64_t length = bytes;
    XXH3_128bits_update(state_.get(), &length, sizeof length);
    XXH3_128bits_update(state_.get(), data, bytes);
  }
  void add(std::string_view text) { add(text.data(), text.size()); }
  Key key() const {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
    Key key;
    std::memcpy(key.data(), canonical.digest, key.size());
    return key;
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_{XXH3_createState()};
};

using Texts = std::vector<MappedFile>;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

Texts open_texts(const std::vector<std::string>& files) {
  Texts texts;
  for (const std::string& file : files) {
    texts.emplace_back(file);
    AM_CHECK(!texts.back().bytes().empty(), Fault::kData, "{}: the file is empty", file);
  }
  return texts;
}

Key key_of(const Texts& texts, const Tokenizer& tokenizer) {
  Hasher hasher;
  hasher.add("automodel tokens");
  hasher.add(AUTOMODEL_VERSION);
  hasher.add(std::to_string(kTokenizerRevision));
  for (const TokenizerFile& file : tokenizer.files()) {
    hasher.add(file.name);
    hasher.add(file.content);
  }
  std::vector<int32_t> probe = tokenizer.encode("a", true);
  hasher.add(probe.data(), probe.size() * sizeof(int32_t));
  for (const MappedFile& text : texts) hasher.add(text_of(text));
  return hasher.key();
}

std::string hexadecimal(const Key& key) {
  std::string text;
  for (uint8_t byte : key) text += fmt::format("{:02x}", byte);
  return text;
}

std::vector<int32_t> encode(const Texts& texts, const std::vector<std::string>& files, const Tokenizer& tokenizer) {
  std::vector<int32_t> stream;
  for (size_t i = 0; i < texts.size(); ++i) {
    std::vector<int32_t> ids;
    try {
      ids = tokenizer.encode(text_of(texts[i]), true);
    } catch (const Error& error) {
      fail(error.fault(), "{}: {}", files[i], error.what());
    }
    if (stream.empty())
      stream = std::move(ids);
    else
      stream.insert(stream.end(), ids.begin(), ids.end());
  }
  return stream;
}

// The entry, or nothing when it is not there or not whole.
std::optional<TokenStream> open_entry(const fs::path& path, const Key& key) {
  try {
    MappedFile file(path);
    Header header;
    auto bytes = file.bytes();
    if (bytes.size() < sizeof header) return std::nullopt;
    std::memcpy(&header, bytes.data(), sizeof header);
    auto tokens = bytes.subspan(sizeof header);
    bool whole = header.magic == kMagic && header.version == kFormatVersion && header.key == key &&
                 header.header_hash == header.own_hash() && (header.width == 2 || header.width == 4) &&
                 tokens.size() / header.width == header.count && tokens.size() % header.width == 0 &&
                 XXH3_64bits(tokens.data(), tokens.size()) == header.tokens_hash;
    if (!whole) return std::nullopt;
    return TokenStream(std::move(file), sizeof header, static_cast<int>(header.width),
                       static_cast<int64_t>(header.count), static_cast<int32_t>(header.largest));
  } catch (const Error&) {
    return std::nullopt;
  }
}

[[noreturn]] void fail_errno(const fs::path& path, const char* what) {
  int reason = errno;
  fail(Fault::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(reason));
}

// Writes under a name of its own, which is gone when this throws, and renames.
void write_entry(const fs::path& path, const Header& header, const void* tokens, size_t bytes) {
  std::string name = path.string() + ".XXXXXX";
  int fd = ::mkostemp(name.data(), O_CLOEXEC);
  if (fd < 0) fail_errno(path, "create");
  try {
    {
      ::fchmod(fd, 0644);
      ::close(fd);
      OutputFile file{fs::path(name)};
      file.write_at(0, std::as_bytes(std::span(&header, 1)));
      file.write_at(sizeof header, {static_cast<const std::byte*>(tokens), bytes});
      file.sync();
    }
    if (::rename(name.c_str(), path.c_str()) != 0) fail_errno(path, "replace");
  } catch (...) {
    ::unlink(name.c_str());
    throw;
  }
}

void save_entry(const fs::path& path, const Key& key, const std::vector<int32_t>& ids) {
  Header header;
  header.count = ids.size();
  header.largest = static_cast<uint32_t>(*std::max_element(ids.begin(), ids.end()));
  header.width = header.largest < 65536 ? 2 : 4;
  header.key = key;
  std::vector<uint16_t> narrow;
  if (header.width == 2) narrow.assign(ids.begin(), ids.end());
  const void* tokens = header.width == 2 ? static_cast<const void*>(narrow.data()) : ids.data();
  size_t bytes = ids.size() * header.width;
  header.tokens_hash = XXH3_64bits(tokens, bytes);
  header.header_hash = header.own_hash();
  write_entry(path, header, tokens, bytes);
}

// A file that one process at a time has locked; it exists as long as somebody works or waits. Where the file system
// has no locks, everybody gets it: then a text may be tokenized more than once.
class Lock {
 public:
  explicit Lock(fs::path path) : path_(std::move(path)) {
    for (;;) {
      fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
      if (fd_ < 0) fail_errno(path_, "create");
      while (::flock(fd_, LOCK_EX) != 0)
        if (errno != EINTR) return;
      // The process before this one may have removed the file meanwhile, and another may have made a new one.
      struct stat mine {
      }, there{};
      if (::fstat(fd_, &mine) == 0 && ::stat(path_.c_str(), &there) == 0 && mine.st_ino == there.st_ino) return;
      ::close(fd_);
    }
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    ::unlink(path_.c_str());
    ::close(fd_);
  }

 private:
  fs::path path_;
  int fd_ = -1;
};

}  // namespace

TokenStream::TokenStream(std::vector<int32_t> ids) : ids_(std::move(ids)), size_(static_cast<int64_t>(ids_.size())) {
  if (!ids_.empty()) largest_ = *std::max_element(ids_.begin(), ids_.end());
}

TokenStream::TokenStream(MappedFile file, size_t offset, int width, int64_t size, int32_t largest)
    : file_(std::move(file)), offset_(offset), width_(width), size_(size), largest_(largest) {}

std::vector<int32_t> TokenStream::part(int64_t begin, int64_t count) const {
  if (!file_) return {ids_.begin() + begin, ids_.begin() + begin + count};
  std::vector<int32_t> out(static_cast<size_t>(count));
  const std::byte* from = file_->bytes().data() + offset_ + begin * width_;
  if (width_ == 4) {
    std::memcpy(out.data(), from, out.size() * sizeof(int32_t));
  } else {
    for (size_t i = 0; i < out.size(); ++i) {
      uint16_t id;
      std::memcpy(&id, from + 2 * i, sizeof id);
      out[i] = id;
    }
  }
  return out;
}

TokenCache default_token_cache() {
  auto from = [](const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? fs::path() : fs::path(value);
  };
  fs::path base = from("XDG_CACHE_HOME");
  if (!base.is_absolute()) base = from("HOME").empty() ? fs::path() : from("HOME") / ".cache";
  TokenCache cache;
  if (!base.empty()) cache.folder = base / "automodel" / "tokens";
  return cache;
}

TokenizedText tokenize(const std::vector<std::string>& files, const Tokenizer& tokenizer, const TokenCache& cache) {
  Texts texts = open_texts(files);
  int64_t bytes = 0;
  for (const MappedFile& text : texts) bytes += static_cast<int64_t>(text.bytes().size());
  if (cache.folder.empty() || bytes < cache.smallest) return {TokenStream(encode(texts, files, tokenizer)), ""};

  Key key = key_of(texts, tokenizer);
  fs::path path = cache.folder / (hexadecimal(key) + ".tokens");
  std::string kept = fmt::format("tokens kept in {}", path.string());
  if (auto stream = open_entry(path, key)) return {std::move(*stream), kept};
  std::optional<Lock> lock;
  try {
    fs::create_directories(cache.folder);
    lock.emplace(cache.folder / (hexadecimal(key) + ".lock"));
    if (auto stream = open_entry(path, key)) return {std::move(*stream), kept};
  } catch (const std::exception& error) {
    return {TokenStream(encode(texts, files, tokenizer)), fmt::format("tokens not kept: {}", error.what())};
  }
  std::vector<int32_t> ids = encode(texts, files, tokenizer);
  try {
    save_entry(path, key, ids);
  } catch (const Error& error) {
    return {TokenStream(std::move(ids)), fmt::format("tokens not kept: {}", error.what())};
  }
  // What was written is what the other ranks have; it is mapped here too, so that the memory is shared.
  if (auto stream = open_entry(path, key)) return {std::move(*stream), kept};
  return {TokenStream(std::move(ids)), fmt::format("tokens not kept: {} was changed", path.string())};
}

}  // namespace automodel::data
