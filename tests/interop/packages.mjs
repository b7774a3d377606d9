// Loads the installed packages from target/interop, which Node's own search from this folder would not find.

import { createRequire } from 'node:module';

export const packaged = createRequire(new URL('../../target/interop/node/', import.meta.url));
