# Debian packages as derivations, from the list that bench/closure writes.
{ list, salt }:
let
  packages = builtins.fromJSON (builtins.readFile list);
  here = { system = builtins.currentSystem; builder = "/bin/sh"; inherit salt; };
  built = builtins.listToAttrs (map (p: { inherit (p) name; value = unpack p; }) packages);
  unpack = p: derivation (here // {
    inherit (p) name;
    args = [ ./unpack.sh ];
    archive = builtins.path { path = p.archive; name = "archive.deb"; };
    needs = map (name: built.${name}) p.needs;
  });
in
derivation (here // {
  name = "closure";
  args = [ "-euc" "/bin/mkdir $out; for path in $paths; do echo $path; done > $out/paths" ];
  paths = builtins.attrValues built;
})
