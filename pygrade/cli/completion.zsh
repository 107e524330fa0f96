#compdef pygrade
# Completion of pygrade in zsh. In ~/.zshrc, after compinit: eval "$(pygrade --print-completion zsh)"
_pygrade() {
    local -a found
    found=(${(f)"$(${words[1]} --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -S '' -- ${(M)found:#*.}
        compadd -- ${found:#*.}
    else
        _files
    fi
}
compdef _pygrade pygrade
