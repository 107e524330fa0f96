# Completion of pygrade in bash. In ~/.bashrc: eval "$(pygrade --print-completion bash)"
_pygrade() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} cur=${COMP_WORDS[COMP_CWORD]}
    [[ $cur == "=" ]] && cur=""
    # Words of bash end at = and :, those of pygrade at spaces.
    local -a words
    IFS=$' \t' read -r -a words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=${words[-1]}
    COMPREPLY=($("${words[0]/#\~/$HOME}" --complete "${words[@]:1}" 2>/dev/null))
    local i
    for i in "${!COMPREPLY[@]}"; do
        COMPREPLY[i]=${COMPREPLY[i]#"${last%"$cur"}"}
    done
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *. ]] && compopt -o nospace
    return 0
}
complete -o default -F _pygrade pygrade
