// Detections of an image by a model that `mlx_rcnn export` wrote, as JSON lines: the whole program.
//
//     main MODEL.mlxfn IMAGE.ppm [HEIGHT WIDTH]
//
// IMAGE has one of the sizes the model was exported for. HEIGHT and WIDTH say how much of it, from
// the top left corner, is the photo: the rest is padding, and is not looked at.

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <mlx/mlx.h>

namespace mx = mlx::core;

// The strings of a list in the metadata, with their quotes and escapes, ready to be printed again.
std::vector<std::string> strings(const std::string& json, const std::string& key) {
  std::vector<std::string> found;
  auto at = json.find("\"" + key + "\": [");
  if (at == std::string::npos) return found;
  for (at = json.find('[', at); json[at] != ']';) {
    auto start = json.find_first_of("\"]", at);
    if (json[start] == ']') break;
    auto end = start + 1;
    while (json[end] != '"') end += json[end] == '\\' ? 2 : 1;
    found.push_back(json.substr(start, end + 1 - start));
    at = end + 1;
  }
  return found;
}

// A binary PPM of 8 bits as (height, width, 3); an app takes its pixels from a camera or a decoder.
mx::array read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int width = 0, height = 0, most = 0;
  file >> magic >> width >> height >> most;
  if (magic != "P6" || most != 255 || width < 1 || height < 1)
    throw std::runtime_error(path + " is no binary PPM of 8 bits");
  file.get();
  std::vector<std::uint8_t> pixels(std::size_t(3) * width * height);
  if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
    throw std::runtime_error(path + " is cut off");
  return mx::array(pixels.data(), {height, width, 3}, mx::uint8);
}

// Row `i` of an output as JSON: a number, or a list of all that is in it.
void print_row(const mx::array& output, int i) {
  auto size = output.size() / output.shape(0);
  auto values = output.data<float>() + i * size;
  if (output.ndim() > 1) std::printf("[");
  for (std::size_t k = 0; k < size; ++k) std::printf(k ? ", %.9g" : "%.9g", values[k]);
  if (output.ndim() > 1) std::printf("]");
}

int main(int count, char** given) {
  if (count != 3 && count != 5) {
    std::cerr << "usage: main MODEL.mlxfn IMAGE.ppm [HEIGHT WIDTH]\n";
    return 2;
  }
  try {
    auto detect = mx::import_function(given[1]);
    auto names = strings(detect.metadata(), "outputs");
    auto classes = strings(detect.metadata(), "class_names");

    auto image = read_ppm(given[2]);
    int height = image.shape(0), width = image.shape(1);
    if (count == 5) height = std::stoi(given[3]), width = std::stoi(given[4]);

    // boxes (D, 4), scores, labels and valid (D,), and what the model finds besides.
    auto found = detect({image, mx::array({height, width})});
    for (auto& output : found) output = mx::contiguous(output);
    mx::eval(found);

    auto labels = found[2].data<int>();
    auto valid = found[3].data<bool>();
    for (int i = 0; i < found[3].shape(0); ++i) {
      if (!valid[i]) continue;
      std::printf("{\"label\": %d", labels[i]);
      if (!classes.empty()) std::printf(", \"class\": %s", classes[labels[i]].c_str());
      for (std::size_t k = 0; k < found.size(); ++k) {
        if (k == 2 || k == 3) continue;
        std::printf(", %s: ", names[k].c_str());
        print_row(found[k], i);
      }
      std::printf("}\n");
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
