# As much of nixpkgs as deploy/nixos/module.nix needs, where there is no nixpkgs: its options with their types and
# defaults, and what it configures. What is said of an option that does not exist, or of another type, is an error.
{ module, services }:
let
  is = type: value: builtins.isAttrs value && value._type or null == type;
  lib = {
    mkOption = option: { _type = "option"; } // option;
    mkEnableOption = name: lib.mkOption { type = lib.types.bool; default = false; };
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkDefault = content: { _type = "default"; inherit content; };
    types = {
      bool = builtins.isBool;
      str = builtins.isString;
      path = value: builtins.substring 0 1 (toString value) == "/";
      package = value: value ? outPath;
      nullOr = type: value: value == null || type value;
      listOf = type: value: builtins.isList value && builtins.all type value;
      attrsOf = type: value: builtins.isAttrs value && builtins.all type (builtins.attrValues value);
      submodule = { options }: value: builtins.attrNames options == builtins.attrNames value
        && builtins.all (name: options.${name}.type value.${name}) (builtins.attrNames options);
    };
    last = list: builtins.elemAt list (builtins.length list - 1);
    optional = condition: value: if condition then [ value ] else [ ];
    mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
    splitString = separator: text: builtins.filter builtins.isString (builtins.split separator text);
    toInt = builtins.fromJSON;
  };
  pkgs = {
    formats.toml = { }: { type = builtins.isAttrs; generate = name: value: value; };
    callPackage = file: { }: { outPath = builtins.seq (builtins.pathExists file || throw "no ${toString file}") "/package"; };
  };

  # What is said of options, with their defaults.
  choose = where: options: said:
    if is "option" options then
      let value = if said != null then said else options.default or (throw "${where} is not said"); in
      if options.type value then value else throw "${where} is of another type"
    else
      let unknown = builtins.filter (name: !(options ? ${name})) (builtins.attrNames (if said == null then { } else said)); in
      if unknown != [ ] then throw "${where}.${builtins.head unknown} is no option"
      else builtins.mapAttrs (name: option: choose "${where}.${name}" option (if said == null then null else said.${name} or null)) options;

  # What is configured: parts that apply, put together.
  parts = value:
    if is "merge" value then builtins.concatLists (map parts value.contents)
    else if is "if" value then (if value.condition then parts value.content else [ ])
    else [ value ];
  together = values:
    let flat = builtins.concatLists (map parts values); in
    if flat == [ ] then null
    else if builtins.all (value: builtins.isAttrs value && !(value ? _type) && !(value ? outPath)) flat then
      let set = builtins.zipAttrsWith (name: values: together values) flat; in
      builtins.removeAttrs set (builtins.filter (name: set.${name} == null) (builtins.attrNames set))
    else if builtins.all builtins.isList flat then builtins.concatLists flat
    else if builtins.length flat == 1 then
      let value = builtins.head flat; in if is "default" value then value.content else value
    else throw "two values of one option";

  made = import module {
    inherit lib pkgs;
    config.services.larder = choose "services.larder" made.options.services.larder services.larder;
  };
in
together [ made.config ]
