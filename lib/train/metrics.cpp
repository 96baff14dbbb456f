#include "train/metrics.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

#include "core/error.h"

namespace automodel::train {
namespace {

std::string timestamp() {
  auto now = std::chrono::system_clock::now();
  std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", text, milliseconds);
}

// The shortest text that reads back as the same number.
std::string number(double x) {
  if (!std::isfinite(x)) return "null";
  std::string text = fmt::format("{}", x);
  bool integral = text.find_first_of(".e") == std::string::npos;
  return integral ? text + ".0" : text;
}

std::string number(const std::optional<double>& x) {
  return x ? number(*x) : "null";
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string duration(double seconds) {
  auto s = static_cast<int64_t>(seconds + 0.5);
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{:02}:{:02}", s / 60, s % 60);
}

}  // namespace

std::string to_json(const TrainingRecord& r) {
  return fmt::format(
      "{{\"step\": {}, \"epoch\": {}, \"timestamp\": \"{}\", \"loss\": {}, \"grad_norm\": {}, \"lr\": {}, \"mem\": {}, "
      "\"tps\": {}, \"tps_per_gpu\": {}, \"mfu\": {}, \"num_tokens_per_step\": {}, \"num_label_tokens\": {}}}",
      r.step, r.epoch, timestamp(), number(r.loss), number(r.grad_norm), number(r.lr), number(r.mem_gib), number(r.tps),
      number(r.tps_per_gpu), number(r.mfu), r.num_tokens_per_step, r.num_label_tokens);
}

std::string to_json(const ValidationRecord& r) {
  return fmt::format(
      "{{\"step\": {}, \"epoch\": {}, \"timestamp\": \"{}\", \"val_loss\": {}, \"lr\": {}, \"num_label_tokens\": {}, "
      "\"mem\": {}}}",
      r.step, r.epoch, timestamp(), number(r.val_loss), number(r.lr), r.num_label_tokens, number(r.mem_gib));
}

std::string to_text(const TrainingRecord& r) {
  return fmt::format(
      "step {} | epoch {} | loss {:.4f} | grad_norm {:.4f} | lr {:.2e} | mem {:.2f} GiB | tps {:.2f}({:.2f}/gpu) | "
      "num_label_tokens {}",
      r.step, r.epoch, r.loss, r.grad_norm, r.lr, r.mem_gib, r.tps, r.tps_per_gpu, r.num_label_tokens);
}

std::string to_text(const ValidationRecord& r, const std::string& name) {
  return fmt::format("[val] name \"{}\" | step {} | epoch {} | loss {:.4f} | lr {:.2e} | num_label_tokens {}", name,
                     r.step, r.epoch, r.val_loss, r.lr, r.num_label_tokens);
}

JsonlFile::JsonlFile(const std::filesystem::path& path) : path_(path), file_(std::fopen(path.c_str(), "ae")) {
  AM_CHECK(file_ != nullptr, Fault::kIo, "{}: cannot append: {}", path.string(), std::strerror(errno));
}

JsonlFile::JsonlFile(JsonlFile&& other) noexcept
    : path_(std::move(other.path_)), file_(std::exchange(other.file_, nullptr)) {}

JsonlFile& JsonlFile::operator=(JsonlFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(file_, other.file_);
  return *this;
}

JsonlFile::~JsonlFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void JsonlFile::append(const std::string& line) {
  if (file_ == nullptr) return;
  bool written = std::fputs((line + "\n").c_str(), file_) >= 0 && std::fflush(file_) == 0;
  AM_CHECK(written, Fault::kIo, "{}: cannot append: {}", path_.string(), std::strerror(errno));
}

ProgressBar::ProgressBar(int64_t done, int64_t total, bool shown)
    : first_(done),
      total_(total),
      shown_(shown && (isatty(STDERR_FILENO) != 0 || std::getenv("AUTOMODEL_TERMINAL") != nullptr)),
      started_(now_seconds()) {}

ProgressBar::~ProgressBar() {
  clear();
}

void ProgressBar::update(int64_t done, const TrainingRecord& record) {
  if (!shown_ || total_ <= 0) return;
  constexpr int kWidth = 30;
  auto filled = static_cast<size_t>(std::clamp<int64_t>(done * kWidth / total_, 0, kWidth));
  double per_step = (now_seconds() - started_) / static_cast<double>(std::max<int64_t>(done - first_, 1));
  fmt::print(stderr, "\r\033[KTraining {:3}% [{}{}] {}/{} | loss {:.4f} | lr {:.2e} | {:.0f} tokens/s | {} left",
             done * 100 / total_, std::string(filled, '#'), std::string(kWidth - filled, '.'), done, total_,
             record.loss, record.lr, record.tps, duration(per_step * static_cast<double>(total_ - done)));
  std::fflush(stderr);
}

void ProgressBar::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

}  // namespace automodel::train
