# Completion of pygrade in fish. In ~/.config/fish/config.fish: pygrade --print-completion fish | source
function __pygrade_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] --complete $words[2..] 2>/dev/null
end
complete -c pygrade -a '(__pygrade_complete)'
