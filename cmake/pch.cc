// The precompiled headers need one translation unit to belong to.
