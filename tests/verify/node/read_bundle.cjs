// node read_bundle.cjs BUNDLE KEY.pub: verify a bundle with Sigstore's own JavaScript and print its payload.
// Exit code 1, and why on stderr, where it does not hold. No connection is made: the key is the only thing trusted.
const crypto = require("crypto");
const fs = require("fs");
const { bundleFromJSON } = require("@sigstore/bundle");
const { toSignedEntity, toTrustMaterial, Verifier } = require("@sigstore/verify");

const [, , file, key] = process.argv;
const pem = fs.readFileSync(key, "utf8");
const hint = crypto.createHash("sha256").update(pem).digest("hex");
const nothing = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const trusted = toTrustMaterial(nothing, { [hint]: { rawBytes: crypto.createPublicKey(pem).export({ type: "spki", format: "der" }), keyDetails: 5 } });
try {
  const bundle = bundleFromJSON(JSON.parse(fs.readFileSync(file, "utf8")));
  new Verifier(trusted, { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 }).verify(toSignedEntity(bundle));
  process.stdout.write(bundle.content.dsseEnvelope.payload);
} catch (fault) {
  process.stderr.write(`${fault.code}: ${fault.message}\n`);
  process.exitCode = 1;
}
