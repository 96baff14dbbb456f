// Encoding follows Hugging Face's tokenizers library: added tokens are cut out of the raw text; each remaining section
// is normalized; added tokens of the "normalized" kind are cut out of that; what remains is cut into words, and each
// word is encoded by the model. "truncation" and "padding" of the file are not applied: the datasets decide about
// lengths.
#include "data/hf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "data/unicode.h"

namespace automodel::data {
namespace {

using nlohmann::json;

const TokenizerFile* find_file(const std::vector<TokenizerFile>& files, std::string_view name) {
  for (const auto& file : files)
    if (file.name == name) return &file;
  return nullptr;
}

json parse_small(const TokenizerFile& file, const std::string& folder) {
  try {
    return json::parse(file.content);
  } catch (const json::parse_error& error) {
    std::string_view what = error.what();
    fail(Fault::kData, "{}/{}: not valid JSON: {}", folder, file.name, what.substr(what.find("] ") + 2));
  }
}

BpeOptions read_model(const JsonFields& model) {
  std::string type = model.text_or("type", "BPE");
  AM_CHECK(type == "BPE", Fault::kData, "{}: the model type '{}' is not supported; BPE is", model.where(), type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    AM_CHECK(model.text_or(key, "").empty(), Fault::kData, "{}: {} '{}' is not supported", model.where(), key,
             model.text(key));
  if (auto dropout = model.find("dropout"))
    AM_CHECK(dropout->value().is_number() && dropout->value().get<double>() == 0.0, Fault::kData,
             "{}: dropout {} is not supported", model.where(), dropout->value().dump());
  BpeOptions options;
  options.unk_token = model.text_or("unk_token", "");
  options.fuse_unk = model.flag_or("fuse_unk", false);
  options.byte_fallback = model.flag_or("byte_fallback", false);
  options.ignore_merges = model.flag_or("ignore_merges", false);
  return options;
}

// A token of tokenizer_config.json: text, or an object with its text as "content".
std::optional<std::string> token_text(const json& config, const char* key) {
  auto it = config.find(key);
  if (it == config.end()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && (*it)["content"].is_string())
    return (*it)["content"].get<std::string>();
  return std::nullopt;
}

// "chat_template": text, or a list of {name, template} of which the one named "default" counts.
std::string chat_template_text(const json& config) {
  auto it = config.find("chat_template");
  if (it == config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return "";
  for (const auto& entry : *it) {
    auto is = [&](const char* key) { return entry.is_object() && entry.contains(key) && entry[key].is_string(); };
    if (is("name") && is("template") && entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return "";
}

}  // namespace

HfTokenizer::HfTokenizer(std::vector<TokenizerFile> files, const std::string& folder,
                         const TokenizerOverrides& overrides)
    : files_(std::move(files)) {
  name_ = folder + "/tokenizer.json";
  const TokenizerFile* file = find_file(files_, "tokenizer.json");
  AM_CHECK(file != nullptr, Fault::kData, "{}: there is no tokenizer.json", folder);
  TokenizerJson parsed = parse_tokenizer_json(file->content, name_);
  read(parsed, name_);
  read_settings(folder);
  apply(overrides);
}

void HfTokenizer::read(TokenizerJson& parsed, const std::string& file) {
  JsonFields root(*parsed.tree, file);
  BpeOptions options = read_model(root.at("model"));
  if (auto normalizer = root.find("normalizer")) normalizer_ = Normalizer(*normalizer);
  if (auto pre_tokenizer = root.find("pre_tokenizer")) pre_tokenizer_ = PreTokenizer(*pre_tokenizer);
  bpe_ = std::make_unique<Bpe>(parsed, options, file);
  id_bound_ = bpe_->id_bound();
  read_added_tokens(root);
  if (auto decoder = root.find("decoder")) decoder_ = TokenDecoder(*decoder);
  if (auto post_processor = root.find("post_processor")) read_post_processor(*post_processor);
}

void HfTokenizer::read_added_tokens(const JsonFields& root) {
  auto list = root.find("added_tokens");
  if (!list) return;
  std::vector<AddedToken> tokens;
  for (size_t i = 0; i < list->size(); ++i) {
    JsonFields item = (*list)[i];
    AddedToken token;
    token.content = item.text("content");
    if (token.content.empty()) continue;
    int64_t id = item.integer("id");
    AM_CHECK(id >= 0 && id < (int64_t{1} << 31), Fault::kData, "{}: the id {} is out of range", item.where(), id);
    token.id = static_cast<uint32_t>(id);
    token.special = item.flag_or("special", false);
    token.single_word = item.flag_or("single_word", false);
    token.lstrip = item.flag_or("lstrip", false);
    token.rstrip = item.flag_or("rstrip", false);
    token.normalized = item.flag_or("normalized", !token.special);
    // The vocabulary's id counts when the two differ, as in the reference implementation.
    auto known = bpe_->id_of(token.content);
    if (known && *known != token.id) {
      log::warning("{}: '{}' has the id {} here but {} in the vocabulary; {} is used", item.where(), token.content,
                   token.id, *known, *known);
      token.id = *known;
    }
    AM_CHECK(known || bpe_->token_of(token.id).data() == nullptr, Fault::kData,
             "{}: '{}' has the id {}, which is '{}' in the vocabulary", item.where(), token.content, token.id,
             bpe_->token_of(token.id));
    id_bound_ = std::max(id_bound_, int64_t{token.id} + 1);
    tokens.push_back(std::move(token));
  }
  added_ = AddedTokens(std::move(tokens), [&](std::string_view text) { return normalizer_.apply(text); });
}

int32_t HfTokenizer::read_id(const JsonFields& json) {
  bool fits = json.value().is_number_integer();
  int64_t id = fits ? json.value().get<int64_t>() : -1;
  AM_CHECK(id >= 0 && id < (int64_t{1} << 31), Fault::kData, "{}: {} is no token id", json.where(),
           json.value().dump());
  id_bound_ = std::max(id_bound_, id + 1);
  return static_cast<int32_t>(id);
}

void HfTokenizer::read_post_processor(const JsonFields& json) {
  std::string type = json.text("type");
  if (type == "Sequence") {
    auto list = json.at("processors");
    for (size_t i = 0; i < list.size(); ++i) read_post_processor(list[i]);
  } else if (type == "TemplateProcessing") {
    read_template(json);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    auto id = [&](const char* key) {
      JsonFields pair = json.at(key);
      AM_CHECK(pair.size() == 2, Fault::kData, "{}: must be [token, id]", pair.where());
      return read_id(pair[1]);
    };
    before_.insert(before_.begin(), id("cls"));
    after_.push_back(id("sep"));
  } else if (type != "ByteLevel") {  // ByteLevel corrects offsets only
    fail(Fault::kData, "{}: the post-processor type '{}' is not supported", json.where(), type);
  }
}

void HfTokenizer::read_template(const JsonFields& json) {
  JsonFields pieces = json.at("single");
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool seen = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].find("Sequence")) {
      AM_CHECK(!seen, Fault::kData, "{}: a template with the text twice is not supported", pieces.where());
      seen = true;
      continue;
    }
    std::string name = pieces[i].at("SpecialToken").text("id");
    JsonFields ids = json.at("special_tokens").at(name).at("ids");
    for (size_t k = 0; k < ids.size(); ++k) (seen ? after : before).push_back(read_id(ids[k]));
  }
  AM_CHECK(seen, Fault::kData, "{}: the template has no place for the text", pieces.where());
  before_.insert(before_.begin(), before.begin(), before.end());
  after_.insert(after_.end(), after.begin(), after.end());
}

void HfTokenizer::read_settings(const std::string& folder) {
  auto read_tokens = [&](const json& config) {
    auto id = [&](const char* key, std::optional<int32_t>& out) {
      auto token = token_text(config, key);
      if (token && !out) out = id_of(*token);
    };
    id("bos_token", settings_.bos_id);
    id("eos_token", settings_.eos_id);
    id("pad_token", settings_.pad_id);
    id("unk_token", settings_.unk_id);
  };
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    const TokenizerFile* file = find_file(files_, name);
    if (file == nullptr) continue;
    json config = parse_small(*file, folder);
    AM_CHECK(config.is_object(), Fault::kData, "{}/{}: must hold an object, but holds {}", folder, name,
             config.type_name());
    read_tokens(config);
    if (std::string_view(name) != "tokenizer_config.json") continue;
    JsonFields fields(config, folder + "/" + name);
    settings_.add_bos_token = fields.flag_or("add_bos_token", false);
    settings_.add_eos_token = fields.flag_or("add_eos_token", false);
    settings_.chat_template = chat_template_text(config);
  }
  if (const TokenizerFile* file = find_file(files_, "chat_template.jinja")) settings_.chat_template = file->content;
}

void HfTokenizer::apply(const TokenizerOverrides& overrides) {
  auto choose = [&](const char* key, const std::optional<std::string>& token, std::optional<int32_t>& id) {
    if (!token) return;
    id = id_of(*token);
    AM_CHECK(id.has_value(), Fault::kData, "{}: the {} '{}' of the recipe is not in the vocabulary", name_, key,
             *token);
  };
  choose("bos_token", overrides.bos_token, settings_.bos_id);
  choose("eos_token", overrides.eos_token, settings_.eos_id);
  auto replace = [&](const char* key, std::optional<bool> add, std::optional<int32_t> id,
                     std::vector<int32_t>& around) {
    if (!add) return;
    AM_CHECK(!*add || id, Fault::kData, "{}: {} is true in the recipe, but the tokenizer names no such token", name_,
             key);
    around.clear();
    if (*add) around.push_back(*id);
  };
  replace("add_bos_token", overrides.add_bos_token, settings_.bos_id, before_);
  replace("add_eos_token", overrides.add_eos_token, settings_.eos_id, after_);
  settings_.add_bos_token = overrides.add_bos_token.value_or(settings_.add_bos_token);
  settings_.add_eos_token = overrides.add_eos_token.value_or(settings_.add_eos_token);
}

std::optional<int32_t> HfTokenizer::id_of(std::string_view token) const {
  if (const AddedToken* added = added_.find(token)) return static_cast<int32_t>(added->id);
  if (auto id = bpe_->id_of(token)) return static_cast<int32_t>(*id);
  return std::nullopt;
}

std::unique_ptr<HfTokenizer::Scratch> HfTokenizer::take_scratch() const {
  {
    std::lock_guard lock(mutex_);
    if (!free_scratches_.empty()) {
      auto scratch = std::move(free_scratches_.back());
      free_scratches_.pop_back();
      return scratch;
    }
  }
  auto scratch = std::make_unique<Scratch>();
  scratch->workers = pre_tokenizer_.make_workers();
  return scratch;
}

void HfTokenizer::encode_section(std::string_view section, bool first, Scratch& scratch,
                                 std::vector<int32_t>& out) const {
  std::string normalized;
  if (!normalizer_.empty()) {
    normalized = normalizer_.apply(section);
    section = normalized;
  }
  PreTokenizer::Sink sink = [&](const PreTokenizer::Piece& word) { bpe_->encode(word.text, scratch.bpe, out); };
  added_.split(section, true, [&](size_t begin, size_t end, const AddedToken* token) {
    if (token != nullptr) {
      out.push_back(static_cast<int32_t>(token->id));
    } else {
      PreTokenizer::run(scratch.workers, {section.substr(begin, end - begin), first && begin == 0}, sink);
    }
  });
}

std::vector<int32_t> HfTokenizer::encode(std::string_view text, bool add_special) const {
  size_t invalid = find_invalid_utf8(text);
  AM_CHECK(invalid == std::string_view::npos, Fault::kData,
           "{}: byte {} (0x{:02x}) of a text of {} bytes is not UTF-8; convert the text, or use the byte tokenizer",
           name_, invalid, static_cast<unsigned char>(text[invalid]), text.size());
  auto scratch = take_scratch();
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (add_special) ids = before_;
  added_.split(text, false, [&](size_t begin, size_t end, const AddedToken* token) {
    if (token != nullptr) {
      ids.push_back(static_cast<int32_t>(token->id));
    } else {
      encode_section(text.substr(begin, end - begin), begin == 0, *scratch, ids);
    }
  });
  if (add_special) {
    ids.insert(ids.end(), after_.begin(), after_.end());
    const auto& s = settings_;
    if (s.add_bos_token && s.bos_id && (ids.empty() || ids.front() != *s.bos_id)) ids.insert(ids.begin(), *s.bos_id);
    if (s.add_eos_token && s.eos_id && (ids.empty() || ids.back() != *s.eos_id)) ids.push_back(*s.eos_id);
  }
  std::lock_guard lock(mutex_);
  free_scratches_.push_back(std::move(scratch));
  return ids;
}

std::string HfTokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    if (id < 0) continue;
    const std::string* added = added_.text_of(static_cast<uint32_t>(id));
    std::string_view token = added != nullptr ? std::string_view(*added) : bpe_->token_of(static_cast<uint32_t>(id));
    if (token.data() == nullptr || (skip_special && added_.is_special(token))) continue;
    tokens.emplace_back(token);
  }
  return decoder_.decode(std::move(tokens));
}

}  // namespace automodel::data
