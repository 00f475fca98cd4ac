# What configure scripts do: command substitutions, pipes, tests, small files, many short-lived programs.
cd /tmp/bench || exit 1
i=0
while [ $i -lt 25 ]; do
	name=$(basename "/a/b/file$i.c" .c)
	echo "int $name = $i;" >"conf-$i.c"
	size=$(wc -c <"conf-$i.c")
	if grep -q "file$i" "conf-$i.c" && expr "$size" : '[0-9]*$' >/dev/null; then
		echo "$name $size" | sed 's/file/FILE/' | tr 'A-Z' 'a-z'
	fi
	(cd / && test -d tmp) && rm -f "conf-$i.c"
	i=$((i + 1))
done
