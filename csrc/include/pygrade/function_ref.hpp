// A reference to something callable, for arguments that are called before the function returns. Allocates nothing.
#pragma once

#include <memory>
#include <type_traits>
#include <utility>

namespace pygrade::inline v0_2 {
template <class Signature>
class FunctionRef;

template <class Result, class... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  template <class Callable>
    requires(!std::is_same_v<std::remove_cvref_t<Callable>, FunctionRef> &&
             std::is_invocable_r_v<Result, Callable&, Arguments...>)
  FunctionRef(Callable&& callable)  // NOLINT: implicit, as an argument
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(callable)))),
        call_([](void* object, Arguments... arguments) -> Result {
          return (*static_cast<std::remove_reference_t<Callable>*>(object))(std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

 private:
  void* object_;
  Result (*call_)(void*, Arguments...);
};

// FunctionRef for members, which outlive the expression that sets them: it refers to a function object with a name.
template <class Signature>
class StoredFunctionRef;

template <class Result, class... Arguments>
class StoredFunctionRef<Result(Arguments...)> : public FunctionRef<Result(Arguments...)> {
 public:
  template <class Callable>
    requires(!std::is_base_of_v<FunctionRef<Result(Arguments...)>, std::remove_cv_t<Callable>> &&
             std::is_invocable_r_v<Result, Callable&, Arguments...>)
  StoredFunctionRef(Callable& callable)  // NOLINT: implicit, as an argument
      : FunctionRef<Result(Arguments...)>(callable) {}
  template <class Callable>
    requires(!std::is_base_of_v<StoredFunctionRef, std::remove_cvref_t<Callable>> && !std::is_reference_v<Callable>)
  StoredFunctionRef(Callable&&) = delete;
};
}  // namespace pygrade::inline v0_2
