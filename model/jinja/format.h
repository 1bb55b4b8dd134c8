// Python's two ways to format text, and the helpers that pad and replace. Thread: one at a time.
#pragma once

#include <string>
#include <string_view>

#include "model/jinja/run.h"

namespace baton::jinja {

/// `format % arguments`: a tuple's items, a dict's values by %(name)s, or one value.
Text FormatPercent(Run& run, const Text& format, const Value& arguments);
/// str.format.
Text FormatBraces(Run& run, const Text& format, const Arguments& arguments);
/// str.replace; a negative `count` replaces all.
Text Replace(Run& run, const Text& text, const Text& old, const Text& by, Int count);
/// `text` filled up to `width` characters; align: '<' text first, '>' text last,
/// '^' in the middle as format specs do it, 'c' as str.center does.
Text Pad(Run& run, const Text& text, Int width, const Text& fill, char align);
/// round(value, digits) of Python: the nearest decimal, ties to even; digits may be negative.
double RoundTo(double value, Int digits);

}  // namespace baton::jinja
