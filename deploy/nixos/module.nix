# Larder on NixOS: the service, nginx in front of it if wanted, and readers.
#
#   { imports = [ "${larder}/deploy/nixos/module.nix" ]; services.larder.enable = true; … }
#
# where `larder` is this repository, for example by builtins.fetchGit. README.md beside this folder has an example.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkDefault mkEnableOption mkIf mkMerge mkOption types;
  cfg = config.services.larder;
  toml = pkgs.formats.toml { };
  file = toml.generate "larder.toml" (
    { listen = cfg.listen; data_dir = cfg.dataDir; } // cfg.settings
  );
  port = lib.toInt (lib.last (lib.splitString ":" cfg.listen));
in
{
  options.services.larder = {
    enable = mkEnableOption "larderd, a binary cache for Nix";

    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = "larderd, built from the repository that this module is part of";
      description = "The package with bin/larderd.";
    };

    listen = mkOption {
      type = types.str;
      default = "127.0.0.1:8080";
      description = "The address and port to listen on.";
    };

    dataDir = mkOption {
      type = types.path;
      default = "/var/lib/larder";
      description = "Where the database, the signing keys and what is stored lie.";
    };

    settings = mkOption {
      type = toml.type;
      default = { };
      example = {
        public_url = "https://cache.example.org";
        cache = [
          {
            name = "main";
            trust = [ { repository = "your-name/your-flake"; ref = "refs/heads/main"; } ];
          }
        ];
      };
      description = ''
        What larder.toml says: see docs/configuration.md. It lies in the Nix store, which everybody can read: secrets are
        named by their files, as in "/run/credentials/larderd.service/webhook" beside
        services.larder.credentials.webhook.
      '';
    };

    credentials = mkOption {
      type = types.attrsOf types.str;
      default = { };
      example = { webhook = "/run/secrets/larder-webhook"; };
      description = ''
        Files that root alone can read, outside the Nix store. The service reads each as
        /run/credentials/larderd.service/NAME.
      '';
    };

    environmentFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/run/secrets/larder-environment";
      description = "A file with variables for the service, such as AWS_SECRET_ACCESS_KEY=….";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether others reach nginx's ports, or without nginx the port of `listen`.";
    };

    nginx = {
      enable = mkEnableOption "nginx with https in front of larderd";
      hostName = mkOption {
        type = types.str;
        example = "cache.example.org";
        description = "The name of the virtual host. Its certificate comes by ACME unless you say otherwise there.";
      };
    };

    read = mkOption {
      type = types.listOf (
        types.submodule {
          options = {
            url = mkOption {
              type = types.str;
              example = "https://cache.example.org/main";
              description = "The cache.";
            };
            publicKey = mkOption {
              type = types.str;
              example = "cache.example.org-main-1:…";
              description = "Its key, as larderd prints it.";
            };
          };
        }
      );
      default = [ ];
      description = "The caches that this machine's Nix reads. They need no larderd here.";
    };
  };

  config = mkMerge [
    (mkIf (cfg.read != [ ]) {
      nix.settings = {
        substituters = map (cache: cache.url) cfg.read;
        trusted-public-keys = map (cache: cache.publicKey) cfg.read;
        # Without these Nix fails a build when a cache is down, and remembers for an hour that a path was not there.
        fallback = mkDefault true;
        connect-timeout = mkDefault 5;
        narinfo-cache-negative-ttl = mkDefault 0;
      };
    })

    (mkIf cfg.enable {
      # Where larderd looks for it, so that `larderd token create` by hand finds it too.
      environment.etc."larder/larder.toml".source = file;
      environment.systemPackages = [ cfg.package ];

      users.users.larder = {
        isSystemUser = true;
        group = "larder";
        home = cfg.dataDir;
      };
      users.groups.larder = { };
      systemd.tmpfiles.rules = [ "d ${cfg.dataDir} 0700 larder larder -" ];

      systemd.services.larderd = {
        description = "Larder, a binary cache for Nix";
        documentation = [ "https://github.com/larder-nix/larder" ];
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "postgresql.service" "nix-daemon.socket" ];
        restartTriggers = [ file ];
        # As ../systemd/larderd.service, which says why.
        serviceConfig = {
          Type = "exec";
          ExecStart = "${cfg.package}/bin/larderd";
          Restart = "on-failure";
          RestartPreventExitStatus = 78;
          RestartSec = 2;
          TimeoutStopSec = 60;
          LimitNOFILE = 65536;

          User = "larder";
          Group = "larder";
          ReadWritePaths = [ cfg.dataDir ];
          UMask = "0077";
          LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") cfg.credentials;
          EnvironmentFile = lib.optional (cfg.environmentFile != null) cfg.environmentFile;

          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateTmp = true;
          PrivateDevices = true;
          ProtectProc = "invisible";
          ProcSubset = "pid";
          RemoveIPC = true;

          CapabilityBoundingSet = "";
          AmbientCapabilities = "";
          NoNewPrivileges = true;
          PrivateUsers = true;
          RestrictSUIDSGID = true;
          RestrictNamespaces = true;
          LockPersonality = true;
          MemoryDenyWriteExecute = true;
          RestrictRealtime = true;
          ProtectClock = true;
          ProtectHostname = true;
          ProtectKernelLogs = true;
          ProtectKernelModules = true;
          ProtectKernelTunables = true;
          ProtectControlGroups = true;
          DevicePolicy = "closed";

          RestrictAddressFamilies = [ "AF_INET" "AF_INET6" "AF_UNIX" ];
          SystemCallArchitectures = "native";
          SystemCallFilter = [ "@system-service" "~@privileged @keyring @memlock" ];
          SystemCallErrorNumber = "EPERM";
        };
      };

      networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (
        if cfg.nginx.enable then [ 80 443 ] else [ port ]
      );
    })

    (mkIf (cfg.enable && cfg.nginx.enable) {
      services.nginx = {
        enable = true;
        upstreams.larder = {
          servers.${cfg.listen} = { };
          # Shorter than the minute after which larderd closes a connection that is not used.
          extraConfig = ''
            keepalive 64;
            keepalive_timeout 50s;
          '';
        };
        virtualHosts.${cfg.nginx.hostName} = {
          enableACME = mkDefault true;
          forceSSL = mkDefault true;
          extraConfig = "include ${../nginx/larder.conf};";
        };
      };
    })
  ];
}
