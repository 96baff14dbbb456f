#include "distributed/mesh_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace automodel::distributed {
namespace {

std::vector<comm::MeshAxis> axes_above_one(const comm::DeviceMesh& mesh) {
  std::vector<comm::MeshAxis> axes;
  for (const comm::MeshAxis& axis : mesh.axes()) {
    if (axis.size > 1) axes.push_back(axis);
  }
  return axes;
}

// "0 4 8 .. 28" for a long list.
std::string shortened(const std::vector<int>& ranks, size_t most = 8) {
  if (ranks.size() <= most) return fmt::format("{}", fmt::join(ranks, " "));
  return fmt::format("{} .. {}", fmt::join(ranks.begin(), ranks.begin() + 3, " "), ranks.back());
}

std::string nodes_text(const std::vector<int>& ranks, int per_node) {
  std::set<int> nodes;
  for (int rank : ranks) nodes.insert(rank / per_node);
  if (nodes.size() == 1) return fmt::format("node {}", *nodes.begin());
  const bool range = *nodes.rbegin() - *nodes.begin() + 1 == static_cast<int>(nodes.size());
  if (range) return fmt::format("nodes {}-{}", *nodes.begin(), *nodes.rbegin());
  const std::vector<int> list(nodes.begin(), nodes.end());
  return "nodes " + shortened(list, 6);
}

// A grid of ranks: rows of the outer axes, columns of the innermost one.
class Grid {
 public:
  Grid(const comm::DeviceMesh& mesh, const PictureOptions& options) : mesh_(mesh), options_(options) {
    outer_ = axes_above_one(mesh);
    if (!outer_.empty()) {
      inner_ = outer_.back();
      outer_.pop_back();
    }
    rows_ = mesh.size() / inner_.size;
    for (const comm::MeshAxis& axis : outer_) label_width_.push_back(axis.name.size() + digits(axis.size - 1) + 1);
    const int most = *std::max_element(mesh.ranks().begin(), mesh.ranks().end());
    cell_ = inner_.size == 1 ? digits(most) : std::max(digits(most), inner_.name.size() + digits(inner_.size - 1) + 1);
  }

  std::string text() {
    std::string out = header();
    const int head = std::max(1, options_.max_rows - 2);
    for (int row = 0; row < rows_; ++row) {
      if (rows_ > options_.max_rows && row == head) {
        out += fmt::format("  ... {} more rows ...\n", rows_ - head - 1);
        row = rows_ - 1;
        last_.clear();
      }
      out += line(row);
    }
    return out;
  }

 private:
  static size_t digits(int n) { return std::to_string(n).size(); }
  bool wide() const { return inner_.size > options_.max_columns; }

  std::string header() const {
    std::string out = "  ";
    for (size_t width : label_width_) out += std::string(width + 2, ' ');
    if (inner_.size == 1) return "";
    if (wide()) return out + fmt::format("{} 0 .. {}\n", inner_.name, inner_.size - 1);
    for (int c = 0; c < inner_.size; ++c) out += fmt::format("{:>{}}", fmt::format("{} {}", inner_.name, c), cell_ + 2);
    return out + "\n";
  }

  std::string line(int row) {
    const auto begin = mesh_.ranks().begin() + static_cast<std::ptrdiff_t>(row) * inner_.size;
    const std::vector<int> ranks(begin, begin + inner_.size);
    std::vector<int> at(outer_.size());
    int rest = row;
    for (size_t a = outer_.size(); a-- > 0; rest /= outer_[a].size) at[a] = rest % outer_[a].size;
    std::string out = "  ";
    bool changed = last_.empty();
    for (size_t a = 0; a < outer_.size(); ++a) {
      changed = changed || last_[a] != at[a];  // a label is repeated only where it says something new
      out += fmt::format("{:<{}}", changed ? fmt::format("{} {}", outer_[a].name, at[a]) : "", label_width_[a] + 2);
    }
    last_ = at;
    if (wide()) {
      out += shortened(ranks);
    } else {
      for (int rank : ranks) out += fmt::format("{:>{}}", rank, cell_ + 2);
    }
    return out + node_text(ranks) + "\n";
  }

  std::string node_text(const std::vector<int>& ranks) {
    if (options_.gpus_per_node <= 0) return "";
    const std::string text = nodes_text(ranks, options_.gpus_per_node);
    if (text == last_node_) return "";
    last_node_ = text;
    return "   " + text;
  }

  const comm::DeviceMesh& mesh_;
  const PictureOptions& options_;
  std::vector<comm::MeshAxis> outer_;
  comm::MeshAxis inner_{"", 1};
  int rows_ = 1;
  std::vector<size_t> label_width_;
  size_t cell_ = 1;
  std::vector<int> last_;
  std::string last_node_;
};

std::string across(const std::vector<std::vector<int>>& groups, int per_node) {
  if (per_node <= 0) return "";
  size_t most = 0;
  for (const std::vector<int>& group : groups) {
    std::set<int> nodes;
    for (int rank : group) nodes.insert(rank / per_node);
    most = std::max(most, nodes.size());
  }
  return most <= 1 ? "inside a node" : fmt::format("across {} nodes", most);
}

}  // namespace

std::string mesh_line(const MeshContext& context) {
  const int64_t ranks = context.world_size();
  const std::string total = fmt::format("{} rank{}", ranks, ranks == 1 ? "" : "s");
  if (!context.device_mesh()) return total + ", each with the whole model";
  std::string text;
  for (const comm::MeshAxis& axis : axes_above_one(*context.device_mesh())) {
    text += fmt::format("{}{} {}", text.empty() ? "" : " x ", axis.name, axis.size);
  }
  return text.empty() ? total : fmt::format("{} = {}", text, total);
}

std::string mesh_picture(const MeshContext& context, const PictureOptions& options) {
  if (context.device_mesh()) return Grid(*context.device_mesh(), options).text();
  // Without a mesh the ranks are one row of replicas.
  const comm::DeviceMesh replicas({{"rank", static_cast<int>(context.world_size())}});
  const int per_row = options.gpus_per_node > 0 ? options.gpus_per_node : options.max_columns;
  std::string out;
  const int rows = (replicas.size() + per_row - 1) / per_row;
  for (int row = 0; row < rows; ++row) {
    if (rows > options.max_rows && row == options.max_rows - 2) {
      out += fmt::format("  ... {} more rows ...\n", rows - row - 1);
      row = rows - 1;
    }
    const auto begin = replicas.ranks().begin() + static_cast<std::ptrdiff_t>(row) * per_row;
    const auto end = std::min(begin + per_row, replicas.ranks().end());
    out += fmt::format("  {}", shortened({begin, end}, static_cast<size_t>(options.max_columns)));
    out += options.gpus_per_node > 0 ? fmt::format("   node {}\n", row) : "\n";
  }
  return out;
}

std::string group_table(const MeshContext& context, const PictureOptions& options) {
  struct Row {
    std::string axes;
    std::vector<std::vector<int>> groups;
  };
  std::vector<Row> rows;
  size_t width = 0;
  for (const std::string& axis : context.axes()) {
    if (*context.size(axis) == 1) continue;
    auto groups = context.groups(axis);
    auto same = std::find_if(rows.begin(), rows.end(), [&](const Row& row) { return row.groups == groups; });
    if (same == rows.end()) {
      rows.push_back({axis, std::move(groups)});
      same = std::prev(rows.end());
    } else {
      same->axes += " = " + axis;
    }
    width = std::max(width, same->axes.size());
  }
  std::string out;
  for (const Row& row : rows) {
    out += fmt::format("  {:<{}}  {:>6} group{} of {}: {}", row.axes, width, row.groups.size(),
                       row.groups.size() == 1 ? " " : "s", row.groups.front().size(), shortened(row.groups.front()));
    if (const std::string where = across(row.groups, options.gpus_per_node); !where.empty()) out += "   " + where;
    out += "\n";
  }
  return out;
}

}  // namespace automodel::distributed
