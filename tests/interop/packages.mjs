// Loads the installed packages from target/interop, which Node's own search from this folder would not find.

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

const folder = new URL('../../target/interop/node/', import.meta.url);

export const installed = fileURLToPath(folder);
export const packaged = createRequire(folder);
