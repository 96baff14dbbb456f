#include "data/nanogpt_dataset.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"

namespace automodel::data {
namespace {

constexpr uint32_t kNewMagic = 278895051;
constexpr uint32_t kLegacyMagic = 20240520;
constexpr size_t kHeaderBytes = 1024;
constexpr int64_t kScannedTokens = int64_t{1} << 29;  // larger files are not read through for their largest id

template <class T>
T load(std::span<const std::byte> bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// One mapped file.
class TokenFile {
 public:
  explicit TokenFile(const std::string& path) : path_(path), map_(path) {
    auto bytes = map_.bytes();
    AM_CHECK(!bytes.empty(), Fault::kData, "{}: the file is empty", path);
    uint32_t magic = bytes.size() >= 4 ? load<uint32_t>(bytes, 0) : 0;
    if (magic == kNewMagic || magic == kLegacyMagic) {
      read_header(magic == kNewMagic);
      return;
    }
    AM_CHECK(bytes.size() % 2 == 0, Fault::kData,
             "{}: no nanoGPT header, and {} bytes are no whole number of uint16 tokens either; give a .bin file of "
             "token ids",
             path, bytes.size());
    count_ = static_cast<int64_t>(bytes.size() / 2);
    log::info("{}: no header; read as {} uint16 tokens", path, count_);
  }

  const std::string& path() const { return path_; }
  int64_t count() const { return count_; }

  int32_t token(int64_t position) const {
    size_t offset = data_ + static_cast<size_t>(position) * width_;
    if (width_ == 2) return load<uint16_t>(map_.bytes(), offset);
    auto value = load<uint32_t>(map_.bytes(), offset);
    AM_CHECK(value < (uint32_t{1} << 31), Fault::kData, "{}: token {} is {}, which is no token id", path_, position,
             value);
    return static_cast<int32_t>(value);
  }

  // Where documents begin: the index file beside this one, else every place of `bos`.
  std::vector<int64_t> document_begins(int64_t bos) const {
    fs::path index = fs::path(path_).replace_extension(".bos.idx");
    std::vector<int64_t> begins;
    if (!fs::exists(index)) {
      for (int64_t i = 0; i < count_; ++i)
        if (token(i) == bos) begins.push_back(i);
      return begins;
    }
    MappedFile map(index);
    AM_CHECK(map.bytes().size() % 4 == 0, Fault::kData, "{}: {} bytes are no whole number of int32 positions",
             index.string(), map.bytes().size());
    for (size_t i = 0; i < map.bytes().size() / 4; ++i) {
      int64_t position = load<int32_t>(map.bytes(), i * 4);
      AM_CHECK(position >= 0 && position < count_ && (begins.empty() || position > begins.back()), Fault::kData,
               "{}: position {} (entry {}) is out of order or outside the {} tokens of {}", index.string(), position, i,
               count_, path_);
      begins.push_back(position);
    }
    return begins;
  }

 private:
  void read_header(bool is_new) {
    auto bytes = map_.bytes();
    AM_CHECK(bytes.size() >= kHeaderBytes, Fault::kData, "{}: {} bytes are too few for the header of {}", path_,
             bytes.size(), kHeaderBytes);
    auto version = load<int32_t>(bytes, 4);
    AM_CHECK(version == 1, Fault::kData, "{}: version {} of the format is not known; 1 is", path_, version);
    count_ = load<int32_t>(bytes, 8);
    auto width = is_new ? load<int32_t>(bytes, 12) : 2;
    AM_CHECK(width == 2 || width == 4, Fault::kData, "{}: the header says {} bytes per token; 2 and 4 are possible",
             path_, width);
    width_ = static_cast<size_t>(width);
    data_ = kHeaderBytes;
    AM_CHECK(count_ >= 0 && bytes.size() == kHeaderBytes + static_cast<size_t>(count_) * width_, Fault::kData,
             "{}: the header says {} tokens of {} bytes, which makes a file of {} bytes, but it has {}", path_, count_,
             width_, static_cast<int64_t>(kHeaderBytes) + count_ * width, bytes.size());
  }

  std::string path_;
  MappedFile map_;
  size_t data_ = 0;   // byte of the first token
  size_t width_ = 2;  // bytes per token
  int64_t count_ = 0;
};

class NanogptDataset : public Dataset {
 public:
  explicit NanogptDataset(const NanogptConfig& config) : window_(config.seq_len + 1) {
    int64_t tokens = 0;
    for (const auto& path : match_files(config.file_pattern, ".bin")) {
      files_.emplace_back(path);
      tokens += files_.back().count();
      first_.push_back(size_);
      starts_.emplace_back();
      if (config.align_to_bos) {
        starts_.back() = aligned_starts(files_.back().document_begins(*config.bos_token), files_.back().count());
        size_ += static_cast<int64_t>(starts_.back().size());
      } else {
        size_ += files_.back().count() / window_;
      }
    }
    AM_CHECK(
        size_ > 0, Fault::kData,
        "{}: {} file(s) with {} tokens hold no window of {} tokens (seq_len {} and one more){}; lower seq_len or give "
        "more data",
        files_[0].path(), files_.size(), tokens, window_, config.seq_len,
        config.align_to_bos ? fmt::format(" that begins at bos_token {}", *config.bos_token) : "");
    tokens_ = tokens;
  }

  int64_t size() const override { return size_; }

  Sample at(int64_t index) const override {
    size_t file = static_cast<size_t>(std::upper_bound(first_.begin(), first_.end(), index) - first_.begin()) - 1;
    int64_t local = index - first_[file];
    int64_t start = starts_[file].empty() ? local * window_ : starts_[file][static_cast<size_t>(local)];
    std::vector<int32_t> window(static_cast<size_t>(window_));
    for (int64_t i = 0; i < window_; ++i) window[static_cast<size_t>(i)] = files_[file].token(start + i);
    return sample_of_window(std::move(window));
  }

  std::optional<int64_t> id_bound() const override {
    if (tokens_ > kScannedTokens) return std::nullopt;
    int64_t largest = 0;
    for (const auto& file : files_)
      for (int64_t i = 0; i < file.count(); ++i) largest = std::max<int64_t>(largest, file.token(i));
    return largest + 1;
  }

  std::string summary() const override {
    return fmt::format("nanogpt {}: {} file(s), {} tokens, {} samples of {} tokens", files_[0].path(), files_.size(),
                       tokens_, size_, window_ - 1);
  }

 private:
  std::vector<int64_t> aligned_starts(const std::vector<int64_t>& begins, int64_t count) const {
    std::vector<int64_t> starts;
    int64_t free = 0;
    for (int64_t begin : begins) {
      if (begin < free || begin + window_ > count) continue;
      starts.push_back(begin);
      free = begin + window_;
    }
    return starts;
  }

  int64_t window_;
  std::vector<TokenFile> files_;
  std::vector<int64_t> first_;                // of each file: the number of its first sample
  std::vector<std::vector<int64_t>> starts_;  // of each file: where its windows begin, when they are aligned
  int64_t size_ = 0;
  int64_t tokens_ = 0;
};

}  // namespace

void describe(config::Fields<NanogptConfig>& f) {
  f.doc("Token files (.bin) of the nanoGPT family, cut into windows.");
  f.target({"nemo_automodel.components.datasets.llm.nanogpt_dataset.NanogptDataset", "nanogpt"});
  f("file_pattern", &NanogptConfig::file_pattern, "Files, folders or globs; read in this order, each sorted.")
      .one_or_list()
      .required();
  f("seq_len", &NanogptConfig::seq_len, "Tokens per sample.").above(0).alias("seq_length");
  f("bos_token", &NanogptConfig::bos_token, "The id that begins a document.").at_least(0);
  f("align_to_bos", &NanogptConfig::align_to_bos, "Whether every sample begins with a document.");
  f("tokenizer", &NanogptConfig::tokenizer, "The tokenizer the ids belong to; saved with the model.");
  f.key("shuffle_files").no_effect("the dataloader shuffles over the windows of all files");
  f.check([](const NanogptConfig& c, config::Problems& p) {
    if (c.align_to_bos && !c.bos_token)
      p.add("align_to_bos", "needs bos_token, the id that begins a document", "add bos_token");
  });
}

std::unique_ptr<Dataset> make_nanogpt_dataset(const NanogptConfig& config) {
  AM_CHECK(!config.align_to_bos || config.bos_token.has_value(), Fault::kData,
           "nanogpt: align_to_bos needs bos_token, the id that begins a document");
  return std::make_unique<NanogptDataset>(config);
}

}  // namespace automodel::data
