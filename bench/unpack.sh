# Unpacks $archive into $out, and makes it refer to what it $needs as a Nix package does: programs and
# libraries by their RUNPATH, everything by a file that lists them.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C

mkdir "$out"
dpkg-deb --fsys-tarfile "$archive" | tar -x -C "$out" --no-same-owner --no-same-permissions
chmod -R u+w "$out"

multiarch=usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
runpath=$out/$multiarch
mkdir "$out/nix-support"
for path in $needs; do
	runpath=$path/$multiarch:$runpath
	echo "$path"
done >"$out/nix-support/needs"

magic=$(printf '\177ELF')
find "$out" -type f -size +1k | while IFS= read -r file; do
	if [ "$(head -c 4 "$file" | tr -d '\000')" = "$magic" ]; then
		# Object files and what is linked statically have no RUNPATH to set.
		patchelf --set-rpath "$runpath" "$file" 2>/dev/null || true
	fi
done
