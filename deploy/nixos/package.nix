# larderd and larder, from the repository that this file lies in.
{ lib, rustPlatform }:

rustPlatform.buildRustPackage {
  pname = "larder";
  version = (lib.importTOML ../../Cargo.toml).workspace.package.version;
  src = lib.cleanSource ../..;
  cargoLock.lockFile = ../../Cargo.lock;
  cargoBuildFlags = [ "--package" "larder-service" "--package" "larder-action" ];
  # They want Docker, root and a Nix of their own: scripts/test.
  doCheck = false;

  meta = {
    description = "A self-hosted binary cache for Nix that needs no secret in CI";
    homepage = "https://github.com/larder-nix/larder";
    license = with lib.licenses; [ mit asl20 ];
    mainProgram = "larderd";
    platforms = lib.platforms.linux;
  };
}
