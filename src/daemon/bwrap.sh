n=0 all= before= opened= commanded=
for word in "$@"; do
    n=$((n + 1))
    if [ "$word" = -- ] && [ -z "$commanded" ]; then
        commanded=yes
        [ -z "$opened" ] || all="$all --remount-ro \"\$opened\""
    fi
    if [ "$before" = --bind ] && [ "$word" -ef "$shared" ]; then
        opened=$word
    fi
    before=$word
    all="$all \"\${$n}\""
done
eval "exec \"\$real\" --cap-drop CAP_SYS_ADMIN $all"
